// The metadata of a model file (spec sections 1.1 and 5.3).
#pragma once

#include <string>

#include "convert/checkpoint_config.h"
#include "gguf/writer.h"
#include "quant/dtype.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

/// general.* and deepseek4.*. `type` is that of most matrices.
void add_model_metadata(const CheckpointConfig& config, const std::string& model_name, DType type,
                        gguf::Writer& writer);

/// tokenizer.ggml.*
void add_tokenizer_metadata(const Tokenizer::Tables& tables, gguf::Writer& writer);

}  // namespace ds4
