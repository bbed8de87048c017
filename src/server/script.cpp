#include "server/script.h"

#include <fstream>
#include <iterator>

#include "base/text.h"
#include "server/api/shared_fields.h"

namespace ds4::server {

Result<std::vector<ScriptRule>> read_script(const std::string& path) {
  const auto bad = [&](std::string_view problem) {
    return Error{ErrorCode::kUsage, cat("--script ", escaped(path, 4096), ": ", problem)};
  };
  std::ifstream file(path, std::ios::binary);
  if (!file) return bad("cannot be read");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::string problem;
  const std::optional<Json> body = parse_json(text, problem);
  if (!body) return bad(problem);
  std::optional<FieldError> error;
  JsonReader reader(*body, "", error);
  std::vector<ScriptRule> rules;
  const Json& list = array_of(reader, "rules", 10000);
  for (std::size_t i = 0; i < list.size(); ++i) {
    JsonReader rule(list[i], item("rules", i), error);
    ScriptRule& out = rules.emplace_back();
    out.when = rule.text("when").value_or("");
    out.reasoning = rule.text("reasoning").value_or("");
    out.reply = rule.text("reply").value_or("");
    out.token_ms = static_cast<int>(rule.integer("token_ms", 0, 60000).value_or(0));
    out.prompt_ms = static_cast<int>(rule.integer("prompt_ms", 0, 1000).value_or(0));
    out.fail_at = rule.integer("fail_at", 0, 1 << 20);
    out.down_at = rule.integer("down_at", 0, 1 << 20);
    out.rebuild_ms = static_cast<int>(rule.integer("rebuild_ms", 0, 60000).value_or(0));
    out.stays_down = rule.boolean("stays_down").value_or(false);
    for (const std::string& name : rule.unread()) rule.fail_here(cat("no field \"", escaped(name), "\" is known"));
  }
  if (error) return bad(error->message);
  return rules;
}

}  // namespace ds4::server
