// The metadata of a model file (spec sections 1.1 and 5.3).
#pragma once

#include <cstdint>
#include <string>

#include "convert/checkpoint_config.h"
#include "gguf/writer.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

/// general.* and deepseek4.*. `file_type` is general.file_type.
void add_model_metadata(const CheckpointConfig& config, const std::string& model_name, std::uint32_t file_type,
                        gguf::Writer& writer);

/// tokenizer.ggml.*
void add_tokenizer_metadata(const Tokenizer::Tables& tables, gguf::Writer& writer);

}  // namespace ds4
