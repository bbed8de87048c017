// All kernel bodies, and the table of one instruction set. Included last by table_*.cpp.
#include "backend/cpu/kernels.h"

#include "backend/cpu/kernels_float.inl"
#include "backend/cpu/kernels_tiles.inl"
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
      .pack = {pack<Q8_0>, pack<MxFp4>, pack<Iq2Xxs>, pack<Q4K>, pack<Q2K>},
      .unpack = {unpack_q8_0<kSignedBias>, unpack_mxfp4<kSignedBias>, unpack_iq2_xxs<kSignedBias>, unpack_q4_k,
                 unpack_q2_k},
      .panel_dot = {panel_dot<kPanelQ8_0>, panel_dot<kPanelMXFP4>, panel_dot<kPanelIQ2_XXS>, panel_dot<kPanelQ4_K>,
                    panel_dot<kPanelQ2_K>},
      .wide_rows = 0,
      .unpack_wide = {},
      .wide_dot = {},
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
