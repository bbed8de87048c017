// The numbers of a model that ops need. Filled once by model/, the same for every op; names are the paper's, config
// field names in brackets where they differ (spec section 1).
#pragma once

#include <cstdint>

namespace ds4 {

struct Dims {
  int hidden = 0;  // d
  int vocab = 0;
  int heads = 0;     // H
  int head_dim = 0;  // K = V width
  int rope_dim = 0;  // rotating dims, the last ones
  int q_lora = 0;
  int o_groups = 0;  // G
  int o_lora = 0;    // per group
  int window = 0;    // sliding window, including the token itself
  int index_heads = 0;
  int index_dim = 0;
  int index_topk = 0;  // compressed rows selected per query in CSA layers
  int experts = 0;
  int experts_used = 0;
  int expert_ff = 0;      // inner size of one routed expert
  int shared_ff = 0;      // inner size of the shared expert
  float route_scale = 1;  // routed_scaling_factor
  int hc = 0;             // hyper-connection streams
  int sinkhorn_iterations = 0;
  float hc_eps = 0;
  float rms_eps = 0;

  int hc_controls() const { return (2 + hc) * hc; }
};

}  // namespace ds4
