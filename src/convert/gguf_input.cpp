// A model file as the input of a conversion: metadata and tensors are taken over by name.
#include <cstring>

#include "base/text.h"
#include "convert/model_input.h"
#include "model/shape.h"

namespace ds4 {
namespace {

class GgufInput final : public ModelInput {
 public:
  GgufInput(gguf::File file, ModelShape shape) : file_(std::move(file)), shape_(std::move(shape)) {}

  const std::vector<InputTensor>& tensors() const override { return tensors_; }
  int layers() const override { return static_cast<int>(shape_.layers.size()); }
  std::size_t files() const override { return 1; }
  std::string identity() const override { return file_identity(file_.path()); }

  void open() {
    for (const gguf::TensorInfo& info : file_.tensors()) {
      InputTensor tensor;
      tensor.name = info.name;
      tensor.dims.assign(info.dims, info.dims + info.n_dims);
      tensor.stored = info.type;
      if (info.type == DType::kI32) {
        tensor.kind = TensorKind::kTokenTable;
        tensor.table_bytes = info.data.size();
        tensor.experts_of = [this, &info] { return read_token_table(info); };
      } else {
        tensor.kind = info.n_dims == 1 ? TensorKind::kVector : TensorKind::kMatrix;
        const std::uint64_t matrices = info.dims[2] * info.dims[3];
        for (std::uint64_t m = 0; m < matrices; ++m) tensor.rows.emplace_back(info, m);
      }
      tensors_.push_back(std::move(tensor));
    }
  }

  Status add_metadata(std::uint32_t file_type, gguf::Writer& writer) const override {
    for (const gguf::Value& value : file_.values()) {
      // The alignment of the new file is its own; which weights it was searched with, too.
      const bool ours = value.key == "general.file_type" || value.key == "general.alignment" ||
                        value.key.starts_with("quantize.imatrix.");
      if (!ours) writer.add_value(value);
    }
    writer.add_u32("general.file_type", file_type);
    return {};
  }

 private:
  Result<std::vector<std::int32_t>> read_token_table(const gguf::TensorInfo& info) const {
    std::vector<std::int32_t> ids(info.elements());
    std::memcpy(ids.data(), info.data.data(), info.data.size());
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (ids[i] < 0 || ids[i] >= shape_.dims.experts)
        return file_.tensor_error(
            info, cat("element ", i, ": expected an expert from 0 to ", shape_.dims.experts - 1, ", found ", ids[i]));
    return ids;
  }

  gguf::File file_;
  ModelShape shape_;
  std::vector<InputTensor> tensors_;
};

}  // namespace

Result<std::unique_ptr<ModelInput>> open_gguf_input(const std::string& path, const NoteSink&) {
  DS4_ASSIGN_OR_RETURN(gguf::File file, gguf::File::open(path));
  DS4_ASSIGN_OR_RETURN(ModelShape shape, read_shape(file));
  auto input = std::make_unique<GgufInput>(std::move(file), std::move(shape));
  input->open();
  return std::unique_ptr<ModelInput>(std::move(input));
}

}  // namespace ds4
