#include "eval/report.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace ds4::eval {

namespace {

using Json = nlohmann::ordered_json;

[[gnu::format(printf, 1, 2)]] std::string print(const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  const int size = std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  return std::string(line, std::min(static_cast<std::size_t>(size), sizeof line - 1));
}

/// Infinity, where nothing is known, has no JSON: null.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json estimate(const Estimate& value) {
  return {{"value", number(value.value)}, {"low", number(value.low)}, {"high", number(value.high)}};
}

std::string row(const char* name, const Estimate& value, double scale, const char* unit) {
  if (!std::isfinite(value.low)) return print("%-26s %10.5f%s\n", name, value.value * scale, unit);
  return print("%-26s %10.5f%s   95 %% %.5f to %.5f\n", name, value.value * scale, unit, value.low * scale,
               value.high * scale);
}

std::string message_text(const chat::Message& message) {
  std::string out;
  for (const chat::ContentBlock& block : message.content) {
    out += block.text;
    for (const chat::ContentBlock& part : block.parts) out += part.text;
  }
  return out;
}

std::string calls_text(const std::vector<Call>& calls) {
  std::string out;
  for (const Call& call : calls) out += cat(out.empty() ? "" : " ", call.name, call.arguments);
  return out.empty() ? "none" : out;
}

}  // namespace

std::string nano_text(const NanoReport& report) {
  std::string out = print("%-36s %12s   %-7s  %-17s %s\n", "skill", "right", "share", "95 % (Wilson)", "aim");
  for (const Skill& skill : skills()) {
    const auto found = report.skills.find(skill.name);
    if (found == report.skills.end()) continue;
    const Tally& tally = found->second;
    const Estimate value = share(tally.right, tally.total);
    out += print("%-36s %5lld of %-4lld  %5.1f %%  %5.1f to %5.1f %%", skill.title, static_cast<long long>(tally.right),
                 static_cast<long long>(tally.total), 100 * value.value, 100 * value.low, 100 * value.high);
    if (skill.aim > 0) out += print("   %.0f %%%s", 100 * skill.aim, value.value < skill.aim ? "  missed" : "");
    out += "\n";
  }
  return out;
}

std::string nano_json(const NanoReport& report, const std::string& model) {
  Json out = {{"model", model}, {"interval", "95 % Wilson"}, {"skills", Json::array()}};
  for (const Skill& skill : skills()) {
    const auto found = report.skills.find(skill.name);
    if (found == report.skills.end()) continue;
    Json entry = {{"skill", skill.name},
                  {"title", skill.title},
                  {"right", found->second.right},
                  {"total", found->second.total},
                  {"share", estimate(share(found->second.right, found->second.total))}};
    if (skill.aim > 0) entry["aim"] = skill.aim;
    out["skills"].push_back(std::move(entry));
  }
  out["prompt_tokens"] = report.prompt_tokens;
  out["answer_tokens"] = report.answer_tokens;
  return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string compare_text(const Comparison& c, const CompareNames& names) {
  std::string out =
      cat("A  ", escaped(names.a, 4096), "\nB  ", escaped(names.b, 4096), "\non ", escaped(names.text, 4096), ": ",
          c.tokens, " tokens scored", c.documents > 1 ? cat(" in ", c.documents, " documents") : "", "\n\n");
  out += row("NLL of A, nats a token", c.nll_a, 1, "");
  out += row("NLL of B", c.nll_b, 1, "");
  out += row("NLL of B less that of A", c.nll_change, 1, "");
  out += print("%-26s %10.5f and %.5f\n", "perplexity of A and B", std::exp(c.nll_a.value), std::exp(c.nll_b.value));
  out += row("KL of B from A, nats", c.kl, 1, "");
  out += print("%-26s %10.5f and %.5f\n", "its 99th percentile, most", c.kl_99, c.kl_most);
  out += row("first choices agree", c.same_first, 100, " %");
  out += cat("\nIntervals: bootstrap over blocks of ", c.block, " tokens, ", kResamples, " draws.\n");
  return out;
}

std::string compare_json(const Comparison& c, const CompareNames& names) {
  const Json out = {{"a", names.a},
                    {"b", names.b},
                    {"text", names.text},
                    {"tokens", c.tokens},
                    {"documents", c.documents},
                    {"interval", "95 % bootstrap over blocks"},
                    {"block", c.block},
                    {"draws", kResamples},
                    {"nll_a", estimate(c.nll_a)},
                    {"nll_b", estimate(c.nll_b)},
                    {"nll_change", estimate(c.nll_change)},
                    {"kl", estimate(c.kl)},
                    {"kl_99", number(c.kl_99)},
                    {"kl_most", number(c.kl_most)},
                    {"same_first", estimate(c.same_first)}};
  return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string scores_csv(const TokenScores& scores) {
  std::string out = "document,nll_a,nll_b,kl,same_first\n";
  std::size_t document = 0;
  for (std::size_t i = 0; i < scores.kl.size(); ++i) {
    while (i >= scores.ends[document]) ++document;
    out += print("%zu,%.7g,%.7g,%.7g,%d\n", document, static_cast<double>(scores.nll_a[i]),
                 static_cast<double>(scores.nll_b[i]), static_cast<double>(scores.kl[i]),
                 static_cast<int>(scores.same_first[i]));
  }
  return out;
}

std::string exchange_json(const Exchange& exchange) {
  const Json out = {{"skill", exchange.item.skill},
                    {"thinking", exchange.item.thinking},
                    {"right", exchange.right},
                    {"prompt", std::vector<TokenId>(exchange.prompt.begin(), exchange.prompt.end())},
                    {"output", std::vector<TokenId>(exchange.output.begin(), exchange.output.end())},
                    {"stopped", exchange.answer.stopped}};
  return out.dump() + "\n";
}

std::string exchange_text(const Exchange& exchange) {
  const std::string asked = message_text(exchange.item.messages[exchange.check.at - 1]);
  const std::size_t shown = 300;
  std::string out = cat("--- ", exchange.item.skill, exchange.item.thinking ? ", thinking" : "", "\nasked     ",
                        asked.size() > shown ? "... " : "",
                        escaped(std::string_view(asked).substr(asked.size() - std::min(asked.size(), shown)), 4096));
  if (exchange.check.calls) out += cat("\nwanted    ", escaped(calls_text(*exchange.check.calls), 4096));
  for (const std::string& text : exchange.check.contains) out += cat("\nwanted    \"", escaped(text, 4096), "\"");
  if (exchange.item.thinking) out += cat("\nreasoned  ", escaped(exchange.answer.reasoning, 4096));
  if (!exchange.answer.calls.empty()) out += cat("\ncalled    ", escaped(calls_text(exchange.answer.calls), 4096));
  out += cat("\nanswered  \"", escaped(exchange.answer.text, 4096), "\"",
             exchange.answer.block_failed ? " (with a broken tool block)" : "", exchange.answer.stopped ? "" : " (cut)",
             "\n");
  return out;
}

}  // namespace ds4::eval
