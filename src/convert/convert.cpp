#include "convert/convert.h"

#include <filesystem>
#include <optional>
#include <unordered_set>
#include <vector>

#include "base/text.h"
#include "convert/checkpoint.h"
#include "convert/checkpoint_config.h"
#include "convert/model_metadata.h"
#include "convert/tensor_copy.h"
#include "convert/tensor_names.h"
#include "convert/tokenizer_json.h"
#include "gguf/writer.h"
#include "quant/codec.h"

namespace ds4 {
namespace {

namespace fs = std::filesystem;

/// "a, b, c and 4 more"
std::string listed(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 3;
  std::string out;
  for (std::size_t i = 0; i < names.size() && i < kShown; ++i) out += cat(i == 0 ? "" : ", ", escaped(names[i]));
  if (names.size() > kShown) out += cat(" and ", names.size() - kShown, " more");
  return out;
}

class Conversion {
 public:
  Conversion(const ConvertOptions& options, const ConvertEvents& events) : options_(options), events_(events) {}

  Result<ConvertReport> run() {
    DS4_RETURN_IF_ERROR(check_options());
    DS4_RETURN_IF_ERROR(read_config());
    DS4_ASSIGN_OR_RETURN(checkpoint_, Checkpoint::open(options_.checkpoint));
    drop_absent_mtp();
    DS4_RETURN_IF_ERROR(plan());
    note_unused();
    DS4_RETURN_IF_ERROR(declare());
    DS4_RETURN_IF_ERROR(writer_->begin());
    DS4_RETURN_IF_ERROR(copy_tensors(copies_, *writer_, {options_.threads, options_.cancel, events_.progress}));
    DS4_RETURN_IF_ERROR(writer_->finish());
    return report();
  }

 private:
  void note(std::string_view text) const {
    if (events_.note) events_.note(text);
  }

  Status check_options() const {
    const auto refuse = [](std::string message) { return Error{ErrorCode::kUsage, std::move(message)}; };
    for (const DType type : {options_.type, options_.experts.value_or(options_.type)})
      if (!can_encode(type)) return refuse(cat("cannot write type ", dtype_info(type).name));
    std::error_code ignored;
    if (!fs::is_directory(options_.checkpoint, ignored))
      return refuse(cat(escaped(options_.checkpoint, 4096), ": expected a folder with config.json"));
    if (fs::is_directory(options_.output, ignored))
      return refuse(cat(escaped(options_.output, 4096), ": expected the name of a file to write, found a folder"));
    if (fs::exists(options_.output, ignored) && !options_.overwrite)
      return refuse(cat(escaped(options_.output, 4096), ": the file exists; give another name, or allow overwriting"));
    return {};
  }

  std::string path_of(const char* file) const { return (fs::path(options_.checkpoint) / file).string(); }

  Status read_config() {
    const std::string path = path_of("config.json");
    auto text = MappedFile::open(path);
    if (!text.ok())
      return Error{ErrorCode::kBadModel, text.error().message};  // a checkpoint without one is no checkpoint
    DS4_ASSIGN_OR_RETURN(config_, parse_checkpoint_config(as_text(*text), path));
    return {};
  }

  static std::string_view as_text(const MappedFile& file) {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  }

  /// Checkpoints are also published without their MTP block; the config still names it then.
  void drop_absent_mtp() {
    const std::uint32_t blocks = config_.num_nextn_predict_layers;
    if (blocks == 0 || checkpoint_->find(mtp_prefix(0) + "e_proj.weight")) return;
    note("the config names an MTP block, but the checkpoint has none: the model file will not have one either");
    config_.num_nextn_predict_layers = 0;
  }

  Status plan() {
    // Tensor names are made from the counts in the config. A config that is wrong by orders of magnitude must fail here
    // and not after filling the memory with names.
    const std::uint64_t blocks = std::uint64_t{config_.num_hidden_layers} + config_.num_nextn_predict_layers;
    const std::uint64_t experts = blocks * config_.n_routed_experts * 3;
    const std::size_t present = checkpoint_->names().size();
    if (experts > present)
      return Error{ErrorCode::kBadModel,
                   cat(escaped(options_.checkpoint, 4096), ": expected ", experts, " expert tensors (", blocks,
                       " blocks of ", config_.n_routed_experts, " experts), found ", present, " tensors in all")};
    std::vector<std::string> fallbacks;
    for (TensorPlan& plan : plan_tensors(config_)) {
      DType type = plan.name.ends_with("_exps.weight") ? options_.experts.value_or(options_.type) : options_.type;
      if (plan.kind == TensorKind::kVector) type = DType::kF32;
      if (plan.kind == TensorKind::kTokenTable) type = DType::kI32;
      if (plan.dims[0] % dtype_info(type).block_elements != 0) {
        type = DType::kF16;
        fallbacks.push_back(plan.name);
      }
      DS4_ASSIGN_OR_RETURN(TensorCopy copy,
                           TensorCopy::open(*checkpoint_, std::move(plan), type, config_.n_routed_experts));
      copies_.push_back(std::move(copy));
    }
    if (!fallbacks.empty())
      note(cat(fallbacks.size(),
               " matrices with rows that are no multiple of 32 are stored as f16: ", listed(fallbacks)));
    return {};
  }

  void note_unused() const {
    std::unordered_set<std::string_view> used;
    for (const TensorCopy& copy : copies_) copy.collect_sources(used);
    std::vector<std::string> mtp, other;
    for (const std::string_view name : checkpoint_->names())
      if (!used.contains(name)) (name.starts_with("mtp.") ? mtp : other).emplace_back(name);
    if (!mtp.empty())
      note(cat(mtp.size(), " MTP tensors are left out: the config says num_nextn_predict_layers ",
               config_.num_nextn_predict_layers));
    if (!other.empty())
      note(cat(other.size(), " tensors of the checkpoint are not known and left out: ", listed(other)));
  }

  Status declare() {
    writer_.emplace(options_.output);
    std::error_code ignored;
    const fs::path folder = fs::weakly_canonical(options_.checkpoint, ignored);
    add_model_metadata(config_, folder.filename().string(), options_.type, *writer_);
    const std::string path = path_of("tokenizer.json");
    if (fs::exists(path, ignored)) {
      DS4_ASSIGN_OR_RETURN(const MappedFile text, MappedFile::open(path));
      DS4_ASSIGN_OR_RETURN(const Tokenizer::Tables tables, parse_tokenizer_json(as_text(text), path, config_));
      DS4_RETURN_IF_ERROR(Tokenizer::from_tables(tables, path));  // what no program could load is not written
      add_tokenizer_metadata(tables, *writer_);
    } else {
      note("the checkpoint has no tokenizer.json: the model file will take token ids only");
    }
    for (TensorCopy& copy : copies_) copy.declare(*writer_);
    return {};
  }

  ConvertReport report() const {
    ConvertReport report;
    report.tensors = copies_.size();
    report.shards = checkpoint_->shard_count();
    for (const TensorCopy& copy : copies_) report.input_bytes += copy.input_bytes();
    report.output_bytes = writer_->file_bytes();
    return report;
  }

  const ConvertOptions& options_;
  const ConvertEvents& events_;
  CheckpointConfig config_;
  std::optional<Checkpoint> checkpoint_;
  std::vector<TensorCopy> copies_;
  std::optional<gguf::Writer> writer_;
};

}  // namespace

Result<ConvertReport> convert_checkpoint(const ConvertOptions& options, const ConvertEvents& events) {
  return Conversion(options, events).run();
}

}  // namespace ds4
