// What ds4-quantize reads, whichever kind it is: the tensors that the new file will have, where their values come from,
// and everything else that goes into it. Immutable once opened; any thread may read.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "convert/row_source.h"
#include "convert/tensor_names.h"
#include "gguf/writer.h"
#include "quant/dtype.h"

namespace ds4 {

struct InputTensor {
  std::string name;  // in the model file
  TensorKind kind = TensorKind::kMatrix;
  std::vector<std::uint64_t> dims;                                // the contiguous one first
  std::vector<RowSource> rows;                                    // one, or one per expert; none for a token table
  std::function<Result<std::vector<std::int32_t>>()> experts_of;  // a token table, checked
  std::uint64_t table_bytes = 0;                                  // of its source
  std::optional<DType> stored;                                    // of a model file: the type it has there

  std::uint64_t elements() const;
  std::uint64_t input_bytes() const;
};

class ModelInput {
 public:
  virtual ~ModelInput() = default;
  virtual const std::vector<InputTensor>& tensors() const = 0;
  virtual int layers() const = 0;
  virtual std::size_t files() const = 0;
  /// Everything but general.file_type, which is `file_type`, and quantize.*.
  virtual Status add_metadata(std::uint32_t file_type, gguf::Writer& writer) const = 0;
  /// Two inputs with the same text here have the same contents: paths, sizes and times of change of the files.
  virtual std::string identity() const = 0;
};

using NoteSink = std::function<void(std::string_view)>;

/// A folder is a checkpoint, a file is a model file. `note` is told what the user should know.
Result<std::unique_ptr<ModelInput>> open_model_input(const std::string& path, const NoteSink& note);
Result<std::unique_ptr<ModelInput>> open_checkpoint_input(const std::string& folder, const NoteSink& note);
Result<std::unique_ptr<ModelInput>> open_gguf_input(const std::string& file, const NoteSink& note);

/// general.file_type, as other tools number "mostly of this type".
std::uint32_t file_type_id(DType type);

/// Path, size and time of change: a line of identity().
std::string file_identity(const std::string& path);

/// "a, b, c and 4 more"
std::string listed_names(const std::vector<std::string>& names);

}  // namespace ds4
