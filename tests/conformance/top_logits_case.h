// Backend::top_logits against the ranking of the same rows on the host: equal, ties and values that are not finite too.
#pragma once

#include "rig.h"

namespace ds4::conformance {

/// `rig` has room for `rows` logit rows.
void check_top_logits(Rig& rig, int rows, const std::string& device, Report& report);

}  // namespace ds4::conformance
