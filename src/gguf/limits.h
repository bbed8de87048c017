// What a model file may ask for. The reader refuses more and the writer refuses to write more. The limits are far above
// any published model; with them the work and the memory of opening a file are bounded before a byte of it is believed:
// less than a second, and less than 16 MiB besides the mapping.
#pragma once

#include <cstdint>

namespace ds4::gguf {

inline constexpr std::uint32_t kVersion = 3;
inline constexpr std::uint64_t kMaxNameBytes = 65535;         // of a key or a tensor name
inline constexpr std::uint64_t kMaxEntries = 65536;           // keys; and again tensors
inline constexpr std::uint64_t kMaxArrayElements = 1u << 21;  // a vocabulary has 2^17; 2^21 int64 are 16 MiB
inline constexpr std::uint64_t kMaxHeaderBytes = 64u << 20;   // everything before the tensor data
inline constexpr std::uint64_t kMaxGapBytes = 1u << 20;       // a longer hole between tensors is worth a note
inline constexpr std::uint64_t kMinAlignment = 8;
inline constexpr std::uint64_t kMaxAlignment = 1u << 20;
inline constexpr std::uint64_t kDefaultAlignment = 32;
inline constexpr int kMaxDims = 4;

}  // namespace ds4::gguf
