// The tokenizer of a checkpoint (Hugging Face tokenizer.json) as the tables a model file holds (spec sections 5.3, 6).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "convert/checkpoint_config.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

/// Tables with exactly vocab_size tokens: ids that the file leaves out become unused tokens. BOS and EOS come from the
/// config. `name` is what messages call the file.
Result<Tokenizer::Tables> parse_tokenizer_json(std::string_view json, const std::string& name,
                                               const CheckpointConfig& config);

}  // namespace ds4
