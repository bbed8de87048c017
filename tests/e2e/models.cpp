#include "models.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>

#include "base/text.h"
#include "chat/python_json.h"
#include "convert/safetensors.h"
#include "process.h"
#include "tokenizer/byte_map.h"

namespace ds4::e2e {

namespace {

constexpr const char* kSource = DS4_GOLDEN_DIR "/small-odd";

std::string convert(const std::string& checkpoint, const std::string& name) {
  const std::string path = work_dir() + "/" + name;
  const Outcome outcome =
      run({DS4_BIN_DIR "/ds4-quantize", "--hf", checkpoint, "--out", path, "--type", "f32", "--overwrite"});
  if (outcome.status != 0) throw std::runtime_error(outcome.err);
  return path;
}

/// Ids 2 to 257 are the bytes; the control tokens of the chat follow.
std::string tokenizer_json() {
  std::string vocab, added;
  for (int byte = 0; byte < 256; ++byte) {
    vocab += byte == 0 ? "" : ",";
    chat::append_json_string(vocab, byte_symbol(static_cast<std::uint8_t>(byte)));
    vocab += cat(":", byte + 2);
  }
  const std::pair<int, const char*> markers[] = {{0, "<｜begin▁of▁sentence｜>"},
                                                 {1, "<｜end▁of▁sentence｜>"},
                                                 {258, "<｜User｜>"},
                                                 {259, "<｜Assistant｜>"},
                                                 {260, "<think>"},
                                                 {261, "</think>"},
                                                 {262, "｜DSML｜"}};
  for (const auto& [id, text] : markers) {
    added += cat(added.empty() ? "" : ",", "{\"id\":", id, ",\"special\":true,\"content\":\"", text, "\"}");
  }
  return cat("{\"model\":{\"type\":\"BPE\",\"vocab\":{", vocab, "},\"merges\":[]},\"added_tokens\":[", added, "]}");
}

template <typename T>
std::vector<T> values(const SafetensorsFile& file, std::string_view name) {
  const SafeTensor* tensor = file.find(name);
  if (tensor == nullptr) throw std::runtime_error(cat("no tensor ", name));
  std::vector<T> out(tensor->data.size() / sizeof(T));
  std::memcpy(out.data(), tensor->data.data(), tensor->data.size());
  return out;
}

}  // namespace

std::string work_dir() {
  static const std::string folder = [] {
    std::filesystem::remove_all(DS4_WORK_DIR);
    std::filesystem::create_directories(DS4_WORK_DIR);
    return std::string(DS4_WORK_DIR);
  }();
  return folder;
}

std::string ds4_program() { return DS4_BIN_DIR "/ds4"; }

const std::string& token_model() {
  static const std::string path = convert(kSource, "tokens.gguf");
  return path;
}

const std::string& chat_model() {
  static const std::string path = [] {
    const std::string folder = work_dir() + "/chat-checkpoint";
    std::filesystem::create_directories(folder);
    std::filesystem::copy_file(cat(kSource, "/config.json"), folder + "/config.json");
    std::filesystem::create_symlink(cat(kSource, "/model.safetensors"), folder + "/model.safetensors");
    write_file(folder + "/tokenizer.json", tokenizer_json());
    return convert(folder, "chat.gguf");
  }();
  return path;
}

const Golden& golden() {
  static const Golden data = [] {
    const auto file = SafetensorsFile::open(cat(kSource, "/golden.safetensors"));
    if (!file.ok()) throw std::runtime_error(file.error().message);
    Golden out;
    out.tokens = values<std::int32_t>(*file, "input_ids");
    out.rows = values<std::int32_t>(*file, "logits_rows");
    out.logits = values<float>(*file, "logits");
    out.greedy = values<std::int32_t>(*file, "greedy");
    out.vocab = out.logits.size() / out.rows.size();
    return out;
  }();
  return data;
}

std::string tokens_file(const std::string& name, const std::vector<std::int32_t>& ids) {
  std::string text;
  for (const std::int32_t id : ids) text += cat(id, " ");
  const std::string path = work_dir() + "/" + name;
  write_file(path, text);
  return path;
}

void write_file(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace ds4::e2e
