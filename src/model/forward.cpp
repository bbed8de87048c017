// The forward pass (§2.0), top to bottom. Every op is one call; what it computes is in backend/backend.h.
#include <algorithm>
#include <bit>
#include <cmath>

#include "base/text.h"
#include "model/model.h"
#include "model/model_impl.h"

namespace ds4 {

namespace {

/// The buffers cut to the rows of this batch.
Activations for_rows(Activations a, std::int64_t rows, std::int64_t wanted) {
  for (Tensor* t : {&a.streams, &a.mixed, &a.post, &a.comb, &a.qr, &a.q, &a.heads, &a.out, &a.route, &a.inner})
    t->rows = rows;
  for (IntTensor* t : {&a.experts, &a.selected, &a.count}) t->rows = rows;
  a.h.rows = a.logits.rows = wanted;
  return a;
}

void attention(Backend& b, const LayerWeights& w, const LayerShape& shape, int layer, const Activations& a,
               Tensor rope) {
  const bool sparse = shape.kind == LayerKind::kCompressedSparse;
  b.query_heads({a.mixed, w.q_a, w.q_a_norm, w.q_b, rope, a.qr, a.q});
  b.window_kv({layer, a.mixed, w.kv, w.kv_norm, rope});
  if (shape.ratio != 0) b.compress({layer, CompressorKind::kMain, a.mixed, w.compressor, rope});
  if (sparse) {
    b.compress({layer, CompressorKind::kIndexer, a.mixed, w.index_compressor, rope});
    b.index_topk({layer, a.mixed, a.qr, w.index_q_b, w.index_proj, rope, a.selected, a.count});
  }
  b.sparse_attention(
      {layer, a.q, w.sinks, rope, sparse ? a.selected : IntTensor{}, sparse ? a.count : IntTensor{}, a.heads});
  b.attention_output({a.heads, w.output_a, w.output_b, a.out});
}

void mixture_of_experts(Backend& b, const LayerWeights& w, const LayerShape& shape, const Activations& a) {
  b.route({a.mixed, w.router, w.router_bias, w.token_experts, a.experts, a.route});
  b.experts({a.mixed, a.experts, a.route, w.gate, w.up, w.down, w.shared_gate, w.shared_up, w.shared_down,
             shape.swiglu_limit, shape.shared_swiglu_limit, a.out, a.inner});
}

void transformer_layer(Backend& b, const LayerWeights& w, const LayerShape& shape, int layer, const Activations& a,
                       Tensor rope) {
  b.hc_pre({a.streams, w.hc_attn, a.mixed, a.post, a.comb});
  b.rms_norm({a.mixed, w.attn_norm, a.mixed});
  attention(b, w, shape, layer, a, rope);
  b.hc_post({a.out, a.post, a.comb, a.streams});

  b.hc_pre({a.streams, w.hc_ffn, a.mixed, a.post, a.comb});
  b.rms_norm({a.mixed, w.ffn_norm, a.mixed});
  mixture_of_experts(b, w, shape, a);
  b.hc_post({a.out, a.post, a.comb, a.streams});
}

void head(Backend& b, const ModelWeights& w, const Activations& a) {
  b.hc_head({a.streams, w.hc_head, a.h});
  b.rms_norm({a.h, w.norm, a.h});
  b.logits({a.h, w.output, a.logits});
}

/// Host copies of what the experts of a layer read, for the caller's tap.
class ExpertTapCopies {
 public:
  Status show(Backend& backend, int layer, const Activations& a, const ExpertTap& tap) {
    DS4_RETURN_IF_ERROR(copy(backend, x_, a.mixed));
    DS4_RETURN_IF_ERROR(copy(backend, experts_, a.experts));
    DS4_RETURN_IF_ERROR(copy(backend, inner_, a.inner));
    tap({layer, static_cast<int>(a.experts.cols), x_, experts_, inner_});
    return {};
  }

 private:
  template <typename T, typename View>
  static Status copy(Backend& backend, std::vector<T>& host, const View& view) {
    host.resize(static_cast<std::size_t>(view.rows * view.cols));
    return backend.download(host.data(), view.data, host.size() * sizeof(T));
  }
  std::vector<float> x_;
  std::vector<std::int32_t> experts_;
  std::vector<float> inner_;
};

/// What a batch looks like to everybody: rows as arrays, and one Part per sequence.
struct Part {
  Sequence* sequence;
  int first_row;
  int rows;
};
struct Rows {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> wanted;
  std::vector<Part> parts;
};

Result<Rows> arrange(std::span<const BatchRow> batch, const ModelShape& shape, const ModelOptions& options) {
  const auto refuse = [](std::string message) { return Error{ErrorCode::kFailure, std::move(message)}; };
  if (batch.empty() || batch.size() > static_cast<std::size_t>(options.max_rows))
    return refuse(cat("batch: expected 1..", options.max_rows, " rows, found ", batch.size()));
  Rows rows;
  for (const BatchRow& row : batch) {
    DS4_CHECK(row.sequence != nullptr);
    const int r = static_cast<int>(rows.tokens.size());
    if (rows.parts.empty() || rows.parts.back().sequence != row.sequence) {
      for (const Part& part : rows.parts)
        if (part.sequence == row.sequence)
          return refuse(cat("batch row ", r, ": the rows of a sequence must be consecutive"));
      rows.parts.push_back({row.sequence, r, 0});
    }
    Part& part = rows.parts.back();
    if (row.token < 0 || row.token >= shape.dims.vocab)
      return refuse(cat("batch row ", r, ": expected a token in 0..", shape.dims.vocab - 1, ", found ", row.token));
    if (row.position != part.sequence->length() + part.rows)
      return refuse(
          cat("batch row ", r, ": expected position ", part.sequence->length() + part.rows, ", found ", row.position));
    if (row.position >= options.context)
      return refuse(
          cat("batch row ", r, ": position ", row.position, " is beyond the context of ", options.context, " tokens"));
    ++part.rows;
    rows.tokens.push_back(row.token);
    rows.positions.push_back(static_cast<std::int32_t>(row.position));
    if (row.wants_logits) rows.wanted.push_back(r);
  }
  if (rows.wanted.size() > static_cast<std::size_t>(options.max_logit_rows))
    return refuse(
        cat("batch: expected at most ", options.max_logit_rows, " rows that want logits, found ", rows.wanted.size()));
  return rows;
}

/// Copies of the tails that a long segment overwrites while it runs (its ring rows replace the ones it started from):
/// put back unless the step is committed. Short segments fit into the slack of the rings and need none.
class TailGuard {
 public:
  TailGuard() = default;
  TailGuard(const TailGuard&) = delete;
  TailGuard& operator=(const TailGuard&) = delete;
  ~TailGuard() {
    for (const Copy& copy : copies_) {
      if (!committed_) copy.backend->copy_tail(copy.tail, copy.saved);
      copy.backend->free_tail(copy.saved);
    }
  }
  Status protect(Backend& backend, std::int32_t tail) {
    DS4_ASSIGN_OR_RETURN(const std::int32_t saved, backend.new_tail());
    backend.copy_tail(saved, tail);
    copies_.push_back({&backend, tail, saved});
    return {};
  }
  void commit() { committed_ = true; }

 private:
  struct Copy {
    Backend* backend;
    std::int32_t tail;
    std::int32_t saved;
  };
  std::vector<Copy> copies_;
  bool committed_ = false;
};

/// Pages for the tokens [from, to) that this sequence alone may write.
Status reserve_pages(PagePool& pool, std::vector<std::int32_t>& pages, std::int64_t from, std::int64_t to) {
  for (auto i = static_cast<std::size_t>(from / kPageTokens); i <= static_cast<std::size_t>((to - 1) / kPageTokens);
       ++i) {
    if (i < pages.size()) {
      DS4_ASSIGN_OR_RETURN(pages[i], pool.make_writable(pages[i]));
    } else {
      DS4_ASSIGN_OR_RETURN(const std::int32_t page, pool.take());
      pages.push_back(page);
    }
  }
  return {};
}

/// Without a way out, so that it takes many at a time: this runs for every token.
bool all_finite(std::span<const float> values) {
  constexpr std::uint32_t kExponent = 0x7F800000;
  std::uint32_t bad = 0;
  for (const float value : values)
    bad |= static_cast<std::uint32_t>((std::bit_cast<std::uint32_t>(value) & kExponent) == kExponent);
  return bad == 0;
}

Error cancelled() { return Error{ErrorCode::kCancelled, "cancelled"}; }

/// Rows [first, first + count) of a batch, as the devices see them in one step.
struct Step {
  std::int64_t first;
  std::span<const std::int32_t> tokens;
  std::span<const std::int32_t> positions;
  std::vector<std::int32_t> wanted;            // counted from `first`
  std::vector<std::vector<Segment>> segments;  // [device]
  bool repeatable;
  std::int64_t rows() const { return static_cast<std::int64_t>(tokens.size()); }
};

}  // namespace

/// One call of forward(): its rows, cut into steps that follow each other from device to device. While the second
/// device works on a step, the first has the next one.
class Model::Pass {
 public:
  Pass(Impl& model, const Rows& rows, std::span<float> logits, const ForwardOptions& options)
      : m_(model), rows_(rows), logits_(logits), top_(options.top), options_(options) {}

  Status run() {
    const auto count = static_cast<std::int64_t>(rows_.tokens.size());
    const std::int64_t most = m_.options.rows_of_step();
    steps_ = static_cast<int>((count + most - 1) / most);
    for (int i = 0; i < steps_; ++i) {
      const std::int64_t first = i * most;
      DS4_RETURN_IF_ERROR(run_step(cut(first, std::min(most, count - first)), i));
    }
    for (auto& device : m_.devices) DS4_RETURN_IF_ERROR(device->backend->wait());
    return {};
  }

 private:
  Step cut(std::int64_t first, std::int64_t count) const {
    Step step;
    step.first = first;
    step.tokens = std::span(rows_.tokens).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    step.positions =
        std::span(rows_.positions).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    for (const std::int32_t row : rows_.wanted)
      if (row >= first && row < first + count) step.wanted.push_back(static_cast<std::int32_t>(row - first));
    step.segments.resize(m_.devices.size());
    for (const Part& part : rows_.parts) {
      const std::int64_t from = std::max<std::int64_t>(part.first_row, first);
      const std::int64_t to = std::min<std::int64_t>(part.first_row + part.rows, first + count);
      if (from >= to) continue;
      const Sequence& s = *part.sequence;
      for (std::size_t d = 0; d < m_.devices.size(); ++d)
        step.segments[d].push_back({static_cast<int>(from - first), static_cast<int>(to - from),
                                    s.length_ + (from - part.first_row), s.tails_[d], s.pages_[d]});
    }
    step.repeatable = options_.taps.empty() && m_.one_run_each && steps_ == 1;
    return step;
  }

  Activations enter(const Step& step, std::size_t device) {
    m_.devices[device]->backend->begin({static_cast<int>(step.rows()), step.tokens, step.positions,
                                        step.segments[device], step.wanted, step.repeatable});
    return for_rows(m_.devices[device]->buffers, step.rows(), static_cast<std::int64_t>(step.wanted.size()));
  }

  Status run_step(const Step& step, int number) {
    const std::size_t layers = m_.shape.layers.size();
    auto here = static_cast<std::size_t>(m_.layer_device[0]);
    std::vector<bool> entered(m_.devices.size());
    entered[here] = true;
    std::vector<Activations> activations(m_.devices.size());
    activations[here] = enter(step, here);
    m_.devices[here]->backend->embed({m_.weights.embedding, activations[here].streams});
    for (std::size_t layer = 0; layer < layers; ++layer) {
      if (options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed)) return cancelled();
      const auto next = static_cast<std::size_t>(m_.layer_device[layer]);
      if (next != here) {  // the streams change device
        if (!entered[next]) activations[next] = enter(step, next);
        entered[next] = true;
        const Tensor& streams = activations[here].streams;
        DS4_RETURN_IF_ERROR(m_.devices[next]->backend->receive(
            activations[next].streams.data, *m_.devices[here]->backend, streams.data, bytes_of(streams)));
        here = next;
      }
      Device& device = *m_.devices[here];
      const LayerShape& shape = m_.shape.layers[layer];
      transformer_layer(*device.backend, m_.weights.layers[layer], shape, static_cast<int>(layer), activations[here],
                        shape.ratio == 0 ? device.rope_plain : device.rope_yarn);
      DS4_RETURN_IF_ERROR(show(step, static_cast<int>(layer), *device.backend, activations[here]));
      if (options_.progress)
        options_.progress(static_cast<int>((number * layers + layer + 1) / static_cast<std::size_t>(steps_)));
    }
    if (step.wanted.empty()) return {};
    head(*m_.devices[here]->backend, m_.weights, activations[here]);
    return take_logits(step, *m_.devices[here]->backend, activations[here].logits);
  }

  static std::size_t bytes_of(const Tensor& t) { return static_cast<std::size_t>(t.rows * t.cols) * sizeof(float); }

  Status show(const Step& step, int layer, Backend& backend, const Activations& a) {
    const auto width = static_cast<std::size_t>(a.streams.cols);
    for (const StreamTap& tap : options_.taps) {
      if (tap.layer != layer) continue;
      DS4_CHECK(tap.streams.size() == rows_.tokens.size() * width);
      const std::span<float> to = tap.streams.subspan(static_cast<std::size_t>(step.first) * width);
      DS4_RETURN_IF_ERROR(backend.download(to.data(), a.streams.data, bytes_of(a.streams)));
    }
    return options_.expert_tap ? expert_copies_.show(backend, layer, a, options_.expert_tap) : Status{};
  }

  Status take_logits(const Step& step, Backend& backend, const Tensor& from) {
    const auto vocab = static_cast<std::size_t>(m_.shape.dims.vocab);
    if (!options_.top.empty()) return take_top(step, backend, from);
    const std::span<float> logits = logits_.first(step.wanted.size() * vocab);
    logits_ = logits_.subspan(logits.size());
    DS4_RETURN_IF_ERROR(backend.download(logits.data(), from.data, logits.size_bytes()));
    if (all_finite(logits)) return {};
    for (std::size_t i = 0; i < step.wanted.size(); ++i)
      DS4_RETURN_IF_ERROR(check_finite(step, i, logits.subspan(i * vocab, vocab)));
    return {};
  }

  Status take_top(const Step& step, Backend& backend, const Tensor& from) {
    const std::span<TopLogits> top = top_.first(step.wanted.size());
    top_ = top_.subspan(top.size());
    DS4_RETURN_IF_ERROR(backend.top_logits(from, top));
    for (std::size_t i = 0; i < top.size(); ++i) {
      if (top[i].count > 0) continue;
      std::vector<float> row(static_cast<std::size_t>(from.cols));  // only to say which value it is
      DS4_RETURN_IF_ERROR(backend.download(row.data(), from.data + i * row.size(), row.size() * sizeof(float)));
      DS4_RETURN_IF_ERROR(check_finite(step, i, row));
    }
    return {};
  }

  /// `row`: the logits of the `number`th row that wants some.
  static Status check_finite(const Step& step, std::size_t number, std::span<const float> row) {
    const auto bad = std::ranges::find_if(row, [](float logit) { return !std::isfinite(logit); });
    if (bad == row.end()) return {};
    return Error{ErrorCode::kNoDevice, cat("logit ", bad - row.begin(), " at position ",
                                           step.positions[static_cast<std::size_t>(step.wanted[number])],
                                           ": expected a finite number, found ", *bad)};
  }

  Impl& m_;
  const Rows& rows_;
  std::span<float> logits_;   // of the steps to come
  std::span<TopLogits> top_;  // likewise
  const ForwardOptions& options_;
  ExpertTapCopies expert_copies_;
  int steps_ = 1;
};

Status Model::forward(std::span<const BatchRow> batch, std::span<float> logits, const ForwardOptions& options) {
  Impl& m = *impl_;
  DS4_ASSIGN_OR_RETURN(const Rows rows, arrange(batch, m.shape, m.options));
  DS4_CHECK(logits.size() ==
            (options.top.empty() ? rows.wanted.size() * static_cast<std::size_t>(m.shape.dims.vocab) : 0));
  DS4_CHECK(options.top.empty() || options.top.size() == rows.wanted.size());
  DS4_CHECK(!options.expert_tap || m.options.expert_tap);

  TailGuard guard;
  for (std::size_t d = 0; d < m.devices.size(); ++d) {
    Device& device = *m.devices[d];
    for (const Part& part : rows.parts) {
      Sequence& s = *part.sequence;
      DS4_RETURN_IF_ERROR(reserve_pages(device.pages, s.pages_[d], s.length_, s.length_ + part.rows));
      if (part.rows > kRewindSlack) DS4_RETURN_IF_ERROR(guard.protect(*device.backend, s.tails_[d]));
    }
  }
  // Even a step that fails or is cancelled may have written ring entries of these positions.
  for (const Part& part : rows.parts)
    if (part.rows <= kRewindSlack)
      part.sequence->written_ = std::max(part.sequence->written_, part.sequence->length_ + part.rows);

  DS4_RETURN_IF_ERROR(Pass(m, rows, logits, options).run());

  guard.commit();
  for (const Part& part : rows.parts) {
    part.sequence->length_ += part.rows;
    part.sequence->written_ = std::max(part.sequence->written_, part.sequence->length_);
  }
  return {};
}

}  // namespace ds4
