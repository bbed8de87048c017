// All kernel bodies, and the table of one instruction set. Included last by table_*.cpp.
#include "backend/cpu/kernels.h"

#include "backend/cpu/kernels_float.inl"
#include "backend/cpu/kernels_int8.inl"
#include "backend/cpu/kernels_attention.inl"

namespace ds4::cpu {
namespace {

constexpr KernelTable make_table(const char* name) {
  return KernelTable{
      .name = name,
      .dot_f32 = dot_rows<OfF32>,
      .dot_f16 = dot_rows<OfF16>,
      .dot_bf16 = dot_rows<OfBf16>,
      .quantise = quantise,
      .unpack = {unpack<Q8_0>, unpack<MxFp4>, unpack<Iq2Xxs>, unpack<Q4K>, unpack<Q2K>},
      .panel_dot = {panel_dot<Q8_0>, panel_dot<MxFp4>, panel_dot<Iq2Xxs>, panel_dot<Q4K>, panel_dot<Q2K>},
      .attend = attend,
      .index_scores = index_scores,
      .sum_squares = sum_squares,
      .scale = scale_vector,
      .add = add_vector,
      .mix = mix_vectors,
      .mix_streams = mix_streams,
      .swiglu = swiglu,
      .softmax_pool = softmax_pool,
      .read_f16 = read_f16,
      .read_packed = read_packed,
      .read_packed_index = read_packed_index,
  };
}

}  // namespace
}  // namespace ds4::cpu
