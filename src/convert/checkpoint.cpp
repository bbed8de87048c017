#include "convert/checkpoint.h"

#include <filesystem>
#include <set>

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace ds4 {
namespace {

using Json = nlohmann::json;

Error index_error(const std::string& path, std::string_view what) {
  return Error{ErrorCode::kBadModel, cat(escaped(path, 4096), ": ", what)};
}

/// A shard is a file beside its index: a name with a path in it would read files from elsewhere.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& directory) {
  namespace fs = std::filesystem;
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  std::error_code ignored;
  const fs::path folder(directory);
  const fs::path index = folder / "model.safetensors.index.json";
  if (fs::exists(index, ignored)) {
    DS4_RETURN_IF_ERROR(checkpoint.open_shards(index.string()));
    return checkpoint;
  }
  if (!fs::exists(folder / "model.safetensors", ignored))
    return Error{
        ErrorCode::kBadModel,
        cat(escaped(directory, 4096), ": expected model.safetensors or model.safetensors.index.json, found neither")};
  DS4_RETURN_IF_ERROR(checkpoint.add_shard("model.safetensors"));
  return checkpoint;
}

Status Checkpoint::open_shards(const std::string& index_path) {
  DS4_ASSIGN_OR_RETURN(const MappedFile text, MappedFile::open(index_path));
  const auto* begin = reinterpret_cast<const char*>(text.bytes().data());
  const Json index = Json::parse(begin, begin + text.bytes().size(), nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    return index_error(index_path, "expected a JSON object with an object weight_map");
  const Json& weight_map = index["weight_map"];
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map.items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get<std::string>()))
      return index_error(index_path,
                         cat("weight_map: tensor ", escaped(name), ": expected the name of a file beside the index"));
    shards.insert(shard.get<std::string>());
  }
  for (const std::string& shard : shards) DS4_RETURN_IF_ERROR(add_shard(shard));
  for (const auto& [name, shard] : weight_map.items()) {
    const Entry entry = find(name);
    const std::string expected = (std::filesystem::path(directory_) / shard.get<std::string>()).string();
    if (!entry || entry.file->path() != expected)
      return index_error(index_path,
                         cat("weight_map: tensor ", escaped(name), ": expected in ", escaped(shard.get<std::string>()),
                             ", found ", entry ? escaped(entry.file->path(), 4096) : std::string("in no shard")));
  }
  return {};
}

Status Checkpoint::add_shard(const std::string& file_name) {
  const std::string path = (std::filesystem::path(directory_) / file_name).string();
  DS4_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::open(path));
  shards_.push_back(std::make_unique<SafetensorsFile>(std::move(opened)));
  const SafetensorsFile& file = *shards_.back();
  for (const SafeTensor& tensor : file.tensors()) {
    const auto [place, inserted] = tensors_.emplace(tensor.name, Entry{&file, &tensor});
    if (!inserted)
      return file.tensor_error(tensor, cat("the name occurs in ", escaped(place->second.file->path(), 4096), ", too"));
  }
  return {};
}

Checkpoint::Entry Checkpoint::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? Entry{} : found->second;
}

std::vector<std::string> Checkpoint::shard_paths() const {
  std::vector<std::string> paths;
  for (const auto& shard : shards_) paths.push_back(shard->path());
  return paths;
}

std::vector<std::string_view> Checkpoint::names() const {
  std::vector<std::string_view> names;
  for (const auto& shard : shards_)
    for (const SafeTensor& tensor : shard->tensors()) names.push_back(tensor.name);
  return names;
}

}  // namespace ds4
