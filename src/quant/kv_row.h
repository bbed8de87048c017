// How one row of the KV state is stored: f32, f16 or packed (the official rounding, spec sections 3.2 and 4.2).
// This is the only place that knows a row format; fast backends have their own readers, tested against it.
//
// A store of n rows is n * main_bytes, then n * scale_bytes: row i has its values at i * main_bytes and its scales at
// n * main_bytes + i * scale_bytes. In f32 and f16 there are no scales. Packed:
//   KV row     main: head_dim - rope_dim bytes e4m3, then rope_dim bf16; scales: one e8m0 per block of 64 (the last
//              block may be shorter), padded with zeros to a multiple of 8 bytes.
//   index row  main: index_dim / 2 bytes, element 2i in the low nibble of byte i (e2m1); scales: one e8m0 per 32.
// Packed index rows are stored after the Hadamard rotation; queries pass through round_index_query to match.
// Pure functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace ds4 {

enum class KvFormat : std::uint8_t { kF32, kF16, kPacked };

/// "f32", "f16", "fp8" and back.
std::string_view kv_format_name(KvFormat format);
std::optional<KvFormat> kv_format_from_name(std::string_view name);

struct RowLayout {
  std::uint32_t main_bytes = 0;
  std::uint32_t scale_bytes = 0;
  std::size_t total() const { return std::size_t{main_bytes} + scale_bytes; }
};

RowLayout kv_row_layout(KvFormat format, int head_dim, int rope_dim);
RowLayout index_row_layout(KvFormat format, int index_dim);

/// `row` [head_dim] after norm and RoPE.
void encode_kv_row(KvFormat format, const float* row, int head_dim, int rope_dim, std::byte* main, std::byte* scale);
void decode_kv_row(KvFormat format, const std::byte* main, const std::byte* scale, int head_dim, int rope_dim,
                   float* row);

/// `row` [index_dim] after norm and RoPE, before Hadamard; decoding gives it as the scores use it (packed: rotated).
void encode_index_row(KvFormat format, const float* row, int index_dim, std::byte* main, std::byte* scale);
void decode_index_row(KvFormat format, const std::byte* main, const std::byte* scale, int index_dim, float* row);

/// Packed: Hadamard and FP4 round trip in place. f32, f16: nothing.
void round_index_query(KvFormat format, float* query, int index_dim);

/// In-place Walsh-Hadamard transform in natural (Sylvester) order times dim^-0.5; dim is a power of two.
void hadamard(float* values, int dim);

/// The official rounding of one value vector through FP8 (blocks of 64) or FP4 (blocks of 32): what the packed format
/// stores, as f32. Exposed for tests and for writers of packed rows.
void round_fp8_blocks(float* values, int count);
void round_fp4_blocks(float* values, int count);

}  // namespace ds4
