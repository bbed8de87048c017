// The held-out skills of a small model, measured through the engine: each item's prompt is rendered, answered greedily
// and checked. Single-threaded; the engine and the items must outlive the call.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "eval/answer.h"
#include "eval/items.h"

namespace ds4::eval {

struct Tally {
  std::int64_t right = 0;
  std::int64_t total = 0;

  void count(bool is_right) {
    right += is_right ? 1 : 0;
    ++total;
  }
};

/// What a skill is called, and the share that ds4-nano aims at (0: none).
struct Skill {
  const char* name;
  const char* title;
  double aim;
};
/// In the order of a report.
const std::vector<Skill>& skills();

struct NanoReport {
  std::map<std::string, Tally> skills;  // by Skill::name
  std::int64_t prompt_tokens = 0;       // of all prompts, reused ones included
  std::int64_t answer_tokens = 0;
};

/// One question and its answer, for whoever wants to look.
struct Exchange {
  const Item& item;
  const Check& check;
  const Answer& answer;
  std::span<const TokenId> prompt;
  std::span<const TokenId> output;  // without the stop token
  bool right = false;
};

struct NanoOptions {
  std::int64_t max_tokens = 400;  // of one answer
  std::string only;               // a prefix of item skills; empty: all
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(std::int64_t done, std::int64_t total)> progress;
  std::function<void(const Exchange&)> on_exchange;
};

Result<NanoReport> run_nano(Engine& engine, const std::vector<Item>& items, const NanoOptions& options);

/// Adds what `answer` says about the skills; true when nothing about it is wrong.
bool tally(const Item& item, const Check& check, const Answer& answer, NanoReport& report);

}  // namespace ds4::eval
