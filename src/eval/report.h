// What was measured, as text for people and as JSON for programs. Pure functions; any thread.
#pragma once

#include <string>

#include "eval/compare.h"
#include "eval/nano.h"

namespace ds4::eval {

/// Who was compared on what, for the report.
struct CompareNames {
  std::string a;
  std::string b;
  std::string text;
};

std::string nano_text(const NanoReport& report);
std::string nano_json(const NanoReport& report, const std::string& model);
std::string compare_text(const Comparison& comparison, const CompareNames& names);
std::string compare_json(const Comparison& comparison, const CompareNames& names);
/// A row for every scored token, in order: the number of its document, and its scores.
std::string scores_csv(const TokenScores& scores);

/// One line of JSON: the skill, the token ids of the prompt and of the answer, and whether all was right.
std::string exchange_json(const Exchange& exchange);
/// What was asked, wanted and answered, in some lines.
std::string exchange_text(const Exchange& exchange);

}  // namespace ds4::eval
