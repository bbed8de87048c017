// Exact scalar decoding of every weight format, and encoding (spec section 9).
// The decoders are the definition of the formats: every fast kernel is tested against them. Pure functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/dtype.h"

namespace ds4 {

float f16_to_f32(std::uint16_t half);
/// Round to nearest even; overflow gives infinity, NaN stays NaN.
std::uint16_t f32_to_f16(float value);
float bf16_to_f32(std::uint16_t half);
std::uint16_t f32_to_bf16(float value);

/// Decodes `elements` values (a multiple of the block) from `source` into f32. Not for kI32.
void decode_row(DType type, const void* source, float* destination, std::size_t elements);

/// True for the types encode_row knows: all but kI32.
bool can_encode(DType type);

/// True for the types whose encoder looks at weights.
bool uses_weights(DType type);

/// Encodes `elements` f32 values. F32, F16, BF16: round to nearest even. Q8_0: scale = absmax / 127 per 32.
/// The others search for a small sum of weights[i] * error[i]^2 over each block; without weights all count alike.
/// Weights are finite and not negative, one per element. A block with a value that is not finite decodes as NaN.
void encode_row(DType type, const float* source, void* destination, std::size_t elements,
                const float* weights = nullptr);

/// The 256 octets of the IQ2_XXS codebook as little-endian u64, entries in {8, 25, 43} (MIT-licensed table of ggml;
/// a fact of the format, checked against its SHA-256 in the tests).
const std::uint64_t* iq2_xxs_grid();

/// 7 sign bits to 8: bit 7 is the parity of bits 0..6.
std::uint8_t iq2_xxs_signs(unsigned index);

}  // namespace ds4
