#include "engine/imatrix.h"

#include <algorithm>

#include "base/text.h"
#include "quant/imatrix.h"

namespace ds4 {

namespace {

constexpr std::string_view kMarker = "===== DS4_IMATRIX_PROMPT";

/// So many samples of its layer's mean are added to every expert: one that was hardly ever chosen would otherwise judge
/// its columns by a handful of tokens.
constexpr double kPriorSamples = 8;

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

/// Sums over the tokens that chose an expert, of all layers. What the layers read next is normalised, so an error
/// counts by how large it is beside what it is a part of: a token's values are taken relative to the size of all that
/// goes into its down matrices, and a token counts for an expert by the expert's share of that. With plain squares a
/// few tokens with huge activations would decide alone.
class ExpertSums {
 public:
  explicit ExpertSums(const ModelShape& shape)
      : experts_(static_cast<std::size_t>(shape.dims.experts)),
        hidden_(static_cast<std::size_t>(shape.dims.hidden)),
        inner_(static_cast<std::size_t>(shape.dims.expert_ff)),
        layers_(shape.layers.size()) {
    for (Layer& layer : layers_) {
      layer.x.resize(experts_ * hidden_);
      layer.inner.resize(experts_ * inner_);
      layer.tokens.resize(experts_);
    }
  }

  void add(const ExpertInputs& inputs) {
    Layer& layer = layers_[static_cast<std::size_t>(inputs.layer)];
    const auto used = static_cast<std::size_t>(inputs.experts_used);
    for (std::size_t first = 0; first < inputs.experts.size(); first += used) {
      const std::span<const float> inner = inputs.inner.subspan(first * inner_, used * inner_);
      const double size = sum_of_squares(inner);
      if (!(size > 0)) continue;
      for (std::size_t i = first; i < first + used; ++i) {
        const auto expert = static_cast<std::size_t>(inputs.experts[i]);
        const std::span<const float> mine = inputs.inner.subspan(i * inner_, inner_);
        const double share = sum_of_squares(mine) / size;
        add_squares(inputs.x.subspan(first / used * hidden_, hidden_), share, layer.x.data() + expert * hidden_);
        add_squares(mine, 1 / size, layer.inner.data() + expert * inner_);
        layer.tokens[expert] += share;
      }
    }
  }

  /// gate, up and down of every layer.
  Status write(ImatrixWriter& writer) const {
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const std::vector<float> x = means(layers_[l], layers_[l].x, hidden_);
      DS4_RETURN_IF_ERROR(writer.add(cat("blk.", l, ".ffn_gate_exps.weight"), x));
      DS4_RETURN_IF_ERROR(writer.add(cat("blk.", l, ".ffn_up_exps.weight"), x));
      DS4_RETURN_IF_ERROR(
          writer.add(cat("blk.", l, ".ffn_down_exps.weight"), means(layers_[l], layers_[l].inner, inner_)));
    }
    return {};
  }

  std::int32_t entries() const { return static_cast<std::int32_t>(3 * layers_.size()); }
  std::int64_t experts() const { return static_cast<std::int64_t>(layers_.size() * experts_); }
  std::int64_t unseen() const {
    std::int64_t count = 0;
    for (const Layer& layer : layers_) count += std::count(layer.tokens.begin(), layer.tokens.end(), 0.0);
    return count;
  }

 private:
  struct Layer {
    std::vector<double> x;       // [experts][hidden]
    std::vector<double> inner;   // [experts][expert_ff]
    std::vector<double> tokens;  // [experts], by their shares
  };

  static double sum_of_squares(std::span<const float> values) {
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
    return sum;
  }
  static void add_squares(std::span<const float> values, double weight, double* sums) {
    for (std::size_t i = 0; i < values.size(); ++i)
      sums[i] += weight * static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }

  std::vector<float> means(const Layer& layer, const std::vector<double>& sums, std::size_t columns) const {
    std::vector<double> whole(columns);
    double tokens = 0;
    for (std::size_t e = 0; e < experts_; ++e) {
      tokens += layer.tokens[e];
      for (std::size_t c = 0; c < columns; ++c) whole[c] += sums[e * columns + c];
    }
    std::vector<float> out(sums.size());
    for (std::size_t e = 0; e < experts_; ++e) {
      for (std::size_t c = 0; c < columns; ++c) {
        const double prior = kPriorSamples * whole[c] / std::max(tokens, 1.0);
        out[e * columns + c] = static_cast<float>((sums[e * columns + c] + prior) / (layer.tokens[e] + kPriorSamples));
      }
    }
    return out;
  }

  std::size_t experts_;
  std::size_t hidden_;
  std::size_t inner_;
  std::vector<Layer> layers_;
};

/// The tokens of all prompts, cut at the context and at the limits. Every piece begins with a BOS, as everything does
/// that the model is given in use.
std::vector<std::vector<TokenId>> tokenize(const Tokenizer& tokenizer, std::string_view dataset, std::int64_t context,
                                           const ImatrixOptions& options, ImatrixReport& report) {
  std::vector<std::vector<TokenId>> pieces;
  for (const std::string_view prompt : split_imatrix_dataset(dataset)) {
    if (options.max_prompts > 0 && report.prompts == options.max_prompts) break;
    const std::vector<TokenId> tokens = tokenizer.encode_text(prompt, true);
    const std::size_t first = tokens[0] == tokenizer.bos() ? 1 : 0;
    for (std::size_t at = first; at < tokens.size();) {
      const std::int64_t room =
          options.max_tokens > 0 ? std::min(context, options.max_tokens - report.tokens) : context;
      if (room < 2) return pieces;
      if (at == first) ++report.prompts;
      const std::size_t end = std::min(tokens.size(), at + static_cast<std::size_t>(room) - 1);
      std::vector<TokenId>& piece = pieces.emplace_back(1, tokenizer.bos());
      piece.insert(piece.end(), tokens.begin() + static_cast<std::ptrdiff_t>(at),
                   tokens.begin() + static_cast<std::ptrdiff_t>(end));
      report.tokens += std::ssize(piece);
      at = end;
    }
  }
  return pieces;
}

}  // namespace

std::vector<std::string_view> split_imatrix_dataset(std::string_view text) {
  std::vector<std::string_view> prompts;
  std::size_t begin = 0;  // of the prompt that is being read
  bool marked = false;
  const auto take = [&](std::size_t end) {
    const std::string_view prompt = trimmed(text.substr(begin, end - begin));
    if (!prompt.empty()) prompts.push_back(prompt);
  };
  for (std::size_t line = 0; line < text.size();) {
    const std::size_t end = std::min(text.find('\n', line), text.size());
    const std::size_t next = std::min(end + 1, text.size());
    if (text.substr(line, end - line).starts_with(kMarker)) {
      if (marked) take(line);  // what stands before the first marker is not a prompt
      marked = true;
      begin = next;
    }
    line = next;
  }
  take(text.size());
  return prompts;
}

Result<ImatrixReport> collect_imatrix(ModelFile file, const EngineOptions& engine, std::string_view dataset,
                                      const std::string& path, const ImatrixOptions& options) {
  if (!file.tokenizer) return Error{ErrorCode::kUsage, "an importance matrix needs a model with a tokenizer"};
  EngineOptions tapped = engine;
  tapped.expert_tap = true;
  tapped.snapshots = 0;
  DS4_ASSIGN_OR_RETURN(const EnginePlan plan, plan_engine(file, tapped));
  if (!plan.fits()) return plan.refusal();
  std::vector<std::unique_ptr<Backend>> backends;
  DS4_ASSIGN_OR_RETURN(backends.emplace_back(), create_backend(engine.backend));
  DS4_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::load(file.gguf, std::move(backends), plan.model));

  ImatrixReport report;
  const auto pieces = tokenize(*file.tokenizer, dataset, plan.model.context, options, report);
  if (pieces.empty()) return Error{ErrorCode::kUsage, cat(escaped(options.dataset_name, 4096), ": no text to read")};
  ExpertSums sums(model->shape());
  ForwardOptions forward;
  forward.cancel = options.cancel;
  forward.expert_tap = [&](const ExpertInputs& inputs) { sums.add(inputs); };
  std::int64_t done = 0;
  std::int32_t chunks = 0;
  for (const std::vector<TokenId>& tokens : pieces) {
    DS4_ASSIGN_OR_RETURN(Sequence sequence, model->new_sequence());
    for (std::size_t at = 0; at < tokens.size(); at += static_cast<std::size_t>(plan.model.max_rows)) {
      std::vector<BatchRow> rows;
      for (std::size_t i = at; i < std::min(tokens.size(), at + static_cast<std::size_t>(plan.model.max_rows)); ++i)
        rows.push_back({&sequence, tokens[i], static_cast<std::int64_t>(i), false});
      DS4_RETURN_IF_ERROR(model->forward(rows, {}, forward));
      ++chunks;
      done += std::ssize(rows);
      if (options.progress)
        options.progress(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(report.tokens));
    }
  }
  DS4_ASSIGN_OR_RETURN(ImatrixWriter writer, ImatrixWriter::create(path, sums.entries()));
  DS4_RETURN_IF_ERROR(sums.write(writer));
  DS4_RETURN_IF_ERROR(writer.finish(chunks, options.dataset_name));
  report.experts = sums.experts();
  report.unseen = sums.unseen();
  return report;
}

}  // namespace ds4
