// What a file compiled for an instruction set must not do: std::max<float> comes along as a weak symbol. (Whether a
// call alone emits one is up to the inliner; an address always does.)
#include <algorithm>

using Pick = const float& (*)(const float&, const float&);

Pick larger() { return &std::max<float>; }
