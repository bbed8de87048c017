#include "model/verify.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "model/small_model.h"

namespace ds4 {
namespace {

/// Overwrites bytes of the file on disk.
void poke(const std::string& path, std::uint64_t offset, const void* bytes, std::size_t count) {
  FILE* file = std::fopen(path.c_str(), "r+b");
  ASSERT_NE(file, nullptr);
  std::fseek(file, static_cast<long>(offset), SEEK_SET);
  std::fwrite(bytes, 1, count, file);
  std::fclose(file);
}

Result<VerifyReport> verify(const std::string& path) {
  auto file = gguf::File::open(path);
  if (!file.ok()) return file.error();
  auto shape = read_shape(*file);
  if (!shape.ok()) return shape.error();
  return verify_weights(*file, *shape);
}

TEST(Verify, FindsOnePoisonedValueInAnyTensor) {
  auto tensors = testing::small_model_tensors();
  for (auto& tensor : tensors) {  // all kinds of storage
    if (tensor.name.find("shexp") != std::string::npos) tensor.type = DType::kQ8_0;
    if (tensor.name.find("token_embd") != std::string::npos) tensor.type = DType::kF16;
    if (tensor.name == "output.weight") tensor.type = DType::kBF16;
  }
  const testing::ScratchFile scratch("m.gguf");
  testing::write_small_model(scratch.path(), testing::small_model_keys(), tensors, 1);
  const auto clean = verify(scratch.path());
  ASSERT_TRUE(clean.ok()) << clean.error().message;
  EXPECT_EQ(clean->tensors, tensors.size());
  for (const auto& tensor : tensors) {
    std::uint64_t offset = 0;
    std::vector<std::byte> old;
    {
      const auto file = gguf::File::open(scratch.path());
      const auto* info = file->find_tensor(tensor.name);
      const DTypeInfo& type = dtype_info(info->type);
      offset = info->offset + info->data.size() / type.block_bytes / 2 * type.block_bytes;
      const auto at = offset - info->offset;
      old.assign(info->data.begin() + static_cast<std::ptrdiff_t>(at),
                 info->data.begin() + static_cast<std::ptrdiff_t>(at + 4));
    }
    const std::uint32_t bad = tensor.type == DType::kF32 ? 0x7F800000U : tensor.type == DType::kI32 ? 77U : 0x7FFF7FFFU;
    poke(scratch.path(), offset, &bad, tensor.type == DType::kF32 || tensor.type == DType::kI32 ? 4 : 2);
    const auto found = verify(scratch.path());
    ASSERT_FALSE(found.ok()) << tensor.name;
    EXPECT_NE(found.error().message.find(tensor.name), std::string::npos) << found.error().message;
    EXPECT_EQ(found.error().code, ErrorCode::kBadModel);
    poke(scratch.path(), offset, old.data(), old.size());
  }
  EXPECT_TRUE(verify(scratch.path()).ok());
}

}  // namespace
}  // namespace ds4
