#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quant/codec.h"

namespace ds4 {
namespace {

/// The first 32 fractional bits of the square (2) or cube (3) root of a small prime: the constants of SHA-256.
std::uint32_t root_fraction(unsigned prime, int power) {
  std::uint64_t low = 0;  // the root in units of 2^-32, by bisection
  std::uint64_t high = std::uint64_t{1} << 37;
  while (high - low > 1) {
    const std::uint64_t middle = (low + high) / 2;
    const long double root = static_cast<long double>(middle) / 4294967296.0L;
    (root * root * (power == 3 ? root : 1.0L) > static_cast<long double>(prime) ? high : low) = middle;
  }
  return static_cast<std::uint32_t>(low);
}

/// SHA-256 after FIPS 180-4.
std::string sha256_hex(std::vector<std::uint8_t> message) {
  std::vector<unsigned> primes;
  for (unsigned n = 2; primes.size() < 64; ++n) {
    bool prime = true;
    for (const unsigned p : primes) prime = prime && n % p != 0;
    if (prime) primes.push_back(n);
  }
  std::array<std::uint32_t, 8> state{};
  for (int i = 0; i < 8; ++i) state[i] = root_fraction(primes[i], 2);
  const std::uint64_t bits = message.size() * 8;
  message.push_back(0x80);
  while (message.size() % 64 != 56) message.push_back(0);
  for (int shift = 56; shift >= 0; shift -= 8) message.push_back(static_cast<std::uint8_t>(bits >> shift));
  for (std::size_t at = 0; at < message.size(); at += 64) {
    std::array<std::uint32_t, 64> w{};
    for (int i = 0; i < 64; ++i) {
      if (i < 16) {
        for (int b = 0; b < 4; ++b) w[i] = w[i] << 8 | message[at + 4 * i + b];
        continue;
      }
      const std::uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
      const std::uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const std::uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + root_fraction(primes[i], 3) + w[i];
      const std::uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const std::uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::array<std::uint32_t, 8> add = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state[i] += add[i];
  }
  std::string hex;
  for (const std::uint32_t word : state)
    for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
  return hex;
}

TEST(Sha256, OfTheStandard) {
  EXPECT_EQ(sha256_hex({'a', 'b', 'c'}), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(IQ2_XXS, GridHasTheChecksumsOfTheFormat) {
  std::vector<std::uint8_t> octets, codes;
  std::map<int, int> level_of = {{8, 0}, {25, 1}, {43, 2}};
  for (int entry = 0; entry < 256; ++entry) {
    unsigned code = 0;
    for (int i = 0; i < 8; ++i) {
      const auto octet = static_cast<std::uint8_t>(iq2_xxs_grid()[entry] >> (8 * i));
      ASSERT_TRUE(level_of.contains(octet));
      octets.push_back(octet);
      code |= static_cast<unsigned>(level_of[octet]) << (2 * i);
    }
    codes.push_back(static_cast<std::uint8_t>(code));
    codes.push_back(static_cast<std::uint8_t>(code >> 8));
  }
  EXPECT_EQ(sha256_hex(octets), "05826b5d3e472a3a78f196be62ac78acf81df0f909626e12ab9fa2a5d490dd54");
  EXPECT_EQ(sha256_hex(codes), "915952ebc4af8ddba8113583ca1316fc818843f7b825bbf1a25ae1c39bf0e16d");
}

TEST(IQ2_XXS, EveryOctetHasAnEvenNumberOfMiddleLevels) {
  for (int entry = 0; entry < 256; ++entry) {
    int middle = 0;
    for (int i = 0; i < 8; ++i) middle += (iq2_xxs_grid()[entry] >> (8 * i) & 0xff) == 25 ? 1 : 0;
    EXPECT_EQ(middle % 2, 0) << entry;
  }
}

}  // namespace
}  // namespace ds4
