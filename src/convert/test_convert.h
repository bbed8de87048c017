// For tests: one call that converts a checkpoint and keeps what it said.
#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "convert/convert.h"
#include "gguf/file.h"

namespace ds4 {

struct Outcome {
  Result<ConvertReport> report;
  std::vector<std::string> notes;
};

inline Outcome convert(const std::string& checkpoint, const std::string& output, DType type, int threads = 2) {
  std::vector<std::string> notes;
  ConvertOptions options;
  options.input = checkpoint;
  options.output = output;
  options.recipe.type = type;
  options.threads = threads;
  ConvertEvents events;
  events.note = [&](std::string_view text) { notes.emplace_back(text); };
  auto report = convert_model(options, events);
  return {std::move(report), std::move(notes)};
}

inline gguf::File open_model(const std::string& path) {
  auto file = gguf::File::open(path);
  EXPECT_TRUE(file.ok()) << file.error().message;
  return std::move(file).value();
}

}  // namespace ds4
