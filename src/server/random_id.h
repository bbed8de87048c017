// Names that nobody can guess, from the system's random numbers. Any thread.
#pragma once

#include <string>

namespace ds4::server {

/// 2 * `bytes` hexadecimal digits.
std::string random_hex(int bytes);

}  // namespace ds4::server
