// An official checkpoint folder as the input of a conversion.
#include <cstring>
#include <filesystem>
#include <unordered_set>

#include "base/text.h"
#include "convert/checkpoint.h"
#include "convert/checkpoint_config.h"
#include "convert/model_input.h"
#include "convert/model_metadata.h"
#include "convert/tokenizer_json.h"

namespace ds4 {
namespace {

namespace fs = std::filesystem;

std::string_view as_text(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

Result<Checkpoint::Entry> find_token_table(const Checkpoint& checkpoint, const TensorPlan& plan) {
  const std::string& name = plan.sources[0];
  const Checkpoint::Entry entry = checkpoint.find(name);
  const std::string wanted = cat("I64 ", describe_shape(plan.source_shape()));
  if (!entry)
    return Error{ErrorCode::kBadModel, cat(escaped(checkpoint.directory(), 4096), ": tensor ", escaped(name),
                                           ": expected ", wanted, ", found no such tensor")};
  const bool integers = entry.tensor->type == SafeType::kI64 || entry.tensor->type == SafeType::kI32;
  if (!integers || entry.tensor->shape != plan.source_shape())
    return entry.error(cat("expected ", wanted, ", found ", describe(*entry.tensor)));
  return entry;
}

/// The ids of a token table, each below `experts`.
Result<std::vector<std::int32_t>> read_token_table(const Checkpoint::Entry& table, std::uint32_t experts) {
  const SafeTensor& tensor = *table.tensor;
  const std::size_t width = safe_type_bytes(tensor.type);
  std::vector<std::int32_t> ids(tensor.elements());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::int64_t id = 0;
    if (width == 8) {
      std::memcpy(&id, tensor.data.data() + i * 8, 8);
    } else {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, tensor.data.data() + i * 4, 4);
      id = narrow;
    }
    if (id < 0 || id >= static_cast<std::int64_t>(experts))
      return table.error(cat("element ", i, ": expected an expert from 0 to ", experts - 1, ", found ", id));
    ids[i] = static_cast<std::int32_t>(id);
  }
  return ids;
}

class CheckpointInput final : public ModelInput {
 public:
  CheckpointInput(std::string folder, CheckpointConfig config, Checkpoint checkpoint)
      : folder_(std::move(folder)), config_(std::move(config)), checkpoint_(std::move(checkpoint)) {}

  const std::vector<InputTensor>& tensors() const override { return tensors_; }
  int layers() const override { return static_cast<int>(config_.num_hidden_layers); }
  std::size_t files() const override { return checkpoint_.shard_count(); }

  Status open(const NoteSink& note) {
    drop_absent_mtp(note);
    DS4_RETURN_IF_ERROR(plan());
    note_unused(note);
    DS4_RETURN_IF_ERROR(read_tokenizer(note));
    return {};
  }

  Status add_metadata(std::uint32_t file_type, gguf::Writer& writer) const override {
    std::error_code ignored;
    add_model_metadata(config_, fs::weakly_canonical(folder_, ignored).filename().string(), file_type, writer);
    if (tokenizer_) add_tokenizer_metadata(*tokenizer_, writer);
    return {};
  }

  std::string identity() const override {
    std::string text = file_identity(path_of("config.json")) + file_identity(path_of("tokenizer.json"));
    for (const std::string& path : checkpoint_.shard_paths()) text += file_identity(path);
    return text;
  }

 private:
  std::string path_of(const char* file) const { return (fs::path(folder_) / file).string(); }

  /// Checkpoints are also published without their MTP block; the config still names it then.
  void drop_absent_mtp(const NoteSink& note) {
    if (config_.num_nextn_predict_layers == 0 || checkpoint_.find(mtp_prefix(0) + "e_proj.weight")) return;
    note("the config names an MTP block, but the checkpoint has none: the model file will not have one either");
    config_.num_nextn_predict_layers = 0;
  }

  Status plan() {
    // Tensor names are made from the counts in the config. A config that is wrong by orders of magnitude must fail here
    // and not after filling the memory with names.
    const std::uint64_t blocks = std::uint64_t{config_.num_hidden_layers} + config_.num_nextn_predict_layers;
    const std::uint64_t experts = blocks * config_.n_routed_experts * 3;
    const std::size_t present = checkpoint_.names().size();
    if (experts > present)
      return Error{ErrorCode::kBadModel,
                   cat(escaped(folder_, 4096), ": expected ", experts, " expert tensors (", blocks, " blocks of ",
                       config_.n_routed_experts, " experts), found ", present, " tensors in all")};
    for (const TensorPlan& plan : plan_tensors(config_)) {
      DS4_ASSIGN_OR_RETURN(InputTensor tensor, find_sources(plan));
      tensors_.push_back(std::move(tensor));
    }
    return {};
  }

  Result<InputTensor> find_sources(const TensorPlan& plan) {
    InputTensor tensor;
    tensor.name = plan.name;
    tensor.kind = plan.kind;
    tensor.dims = plan.dims;
    if (plan.kind == TensorKind::kTokenTable) {
      DS4_ASSIGN_OR_RETURN(const Checkpoint::Entry table, find_token_table(checkpoint_, plan));
      tensor.table_bytes = table.tensor->data.size();
      tensor.experts_of = [table, experts = config_.n_routed_experts] { return read_token_table(table, experts); };
      used_.insert(table.tensor->name);
      return tensor;
    }
    const std::vector<std::uint64_t> shape = plan.source_shape();
    for (const std::string& name : plan.sources) {
      DS4_ASSIGN_OR_RETURN(WeightReader weight, WeightReader::open(checkpoint_, name, shape));
      used_.insert(weight.name());
      if (!weight.scale_name().empty()) used_.insert(weight.scale_name());
      tensor.rows.emplace_back(weight);
    }
    return tensor;
  }

  void note_unused(const NoteSink& note) const {
    std::vector<std::string> mtp, other;
    for (const std::string_view name : checkpoint_.names())
      if (!used_.contains(name)) (name.starts_with("mtp.") ? mtp : other).emplace_back(name);
    if (!mtp.empty())
      note(cat(mtp.size(), " MTP tensors are left out: the config says num_nextn_predict_layers ",
               config_.num_nextn_predict_layers));
    if (!other.empty())
      note(cat(other.size(), " tensors of the checkpoint are not known and left out: ", listed_names(other)));
  }

  Status read_tokenizer(const NoteSink& note) {
    const std::string path = path_of("tokenizer.json");
    std::error_code ignored;
    if (!fs::exists(path, ignored)) {
      note("the checkpoint has no tokenizer.json: the model file will take token ids only");
      return {};
    }
    DS4_ASSIGN_OR_RETURN(const MappedFile text, MappedFile::open(path));
    DS4_ASSIGN_OR_RETURN(Tokenizer::Tables tables, parse_tokenizer_json(as_text(text), path, config_));
    DS4_RETURN_IF_ERROR(Tokenizer::from_tables(tables, path));  // what no program could load is not written
    tokenizer_ = std::move(tables);
    return {};
  }

  std::string folder_;
  CheckpointConfig config_;
  Checkpoint checkpoint_;
  std::vector<InputTensor> tensors_;
  std::unordered_set<std::string_view> used_;  // names of checkpoint tensors
  std::optional<Tokenizer::Tables> tokenizer_;
};

}  // namespace

Result<std::unique_ptr<ModelInput>> open_checkpoint_input(const std::string& folder, const NoteSink& note) {
  const std::string path = (fs::path(folder) / "config.json").string();
  const auto text = MappedFile::open(path);
  if (!text.ok())
    return Error{ErrorCode::kBadModel, text.error().message};  // a checkpoint without one is no checkpoint
  DS4_ASSIGN_OR_RETURN(CheckpointConfig config, parse_checkpoint_config(as_text(*text), path));
  DS4_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::open(folder));
  auto input = std::make_unique<CheckpointInput>(folder, std::move(config), std::move(checkpoint));
  DS4_RETURN_IF_ERROR(input->open(note));
  return std::unique_ptr<ModelInput>(std::move(input));
}

}  // namespace ds4
