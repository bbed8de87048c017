#include "server/random_id.h"

#include <sys/random.h>

#include "base/check.h"

namespace ds4::server {

std::string random_hex(int bytes) {
  unsigned char random[64];
  DS4_CHECK(bytes > 0 && bytes <= static_cast<int>(sizeof random));
  DS4_CHECK(getrandom(random, static_cast<std::size_t>(bytes), 0) == bytes);
  std::string out;
  for (int i = 0; i < bytes; ++i) {
    constexpr char kDigits[] = "0123456789abcdef";
    out += kDigits[random[i] >> 4];
    out += kDigits[random[i] & 15];
  }
  return out;
}

}  // namespace ds4::server
