// The inside of Model, shared by model.cpp (loading, memory), sequence.cpp (timelines) and forward.cpp (the maths).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/kv_state.h"
#include "model/model.h"
#include "model/weights.h"

namespace ds4 {

/// Device memory between ops, sized for the largest batch. One set per backend.
struct Activations {
  Tensor streams;      // [rows, hc, d]
  Tensor mixed;        // [rows, d]: what hc_pre gives a sub-layer, normalised in place
  Tensor post;         // [rows, hc]
  Tensor comb;         // [rows, hc, hc]
  Tensor qr;           // [rows, q_lora]
  Tensor q;            // [rows, H, head_dim]
  Tensor heads;        // [rows, H, head_dim]: attention output
  Tensor out;          // [rows, d]: sub-layer output
  Tensor route;        // [rows, experts_used]
  Tensor h;            // [logit rows, d]
  Tensor logits;       // [logit rows, vocab]
  IntTensor experts;   // [rows, experts_used]
  IntTensor selected;  // [rows, index_topk]
  IntTensor count;     // [rows, 1]
  Tensor inner;        // [rows, experts_used * expert_ff], with ModelOptions::expert_tap
};

/// One backend of the model: its device, its KV pages, its activations and the rotation tables.
struct Device {
  std::unique_ptr<Backend> backend;
  KvLayout layout;
  PagePool pages;
  Buffer memory;
  Activations buffers;  // at full size
  Tensor rope_plain;    // [1, rope_dim / 2]
  Tensor rope_yarn;
  explicit Device(std::unique_ptr<Backend> b) : backend(std::move(b)), pages(*backend) {}
};

struct Model::Impl {
  const gguf::File* file = nullptr;
  ModelShape shape;
  ModelOptions options;
  ModelWeights weights;
  std::vector<std::unique_ptr<Device>> devices;
  std::vector<int> layer_device;  // [layer]
  bool one_run_each = true;       // the layers of every device are consecutive

  Device& device_of(std::size_t layer) { return *devices[static_cast<std::size_t>(layer_device[layer])]; }
  Device& head_device() { return device_of(layer_device.size() - 1); }
};

/// How many tails a model needs beyond its sequences: one for every segment of a batch that is long enough to overwrite
/// what it started from (see Model::forward).
int rollback_tails(const ModelOptions& options);

}  // namespace ds4
