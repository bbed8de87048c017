// ds4-bench: tokens per second at growing context, and where the time goes. Built with DS4_CORE_ONLY it needs nothing
// but a compiler; then it has no tokenizer, and prompts are random ids.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/text.h"
#include "bench/options.h"
#include "bench/program.h"
#include "generated/commit.h"
#if !defined(DS4_CORE_ONLY)
#include <fstream>
#include <iterator>

#include "chat/render.h"
#include "tokenizer/tokenizer.h"
#endif

namespace {

using ds4::cat;
using ds4::Error;
using ds4::ErrorCode;
using ds4::Result;
using ds4::Status;
using ds4::bench::Options;

int fail(const Error& error) {
  std::fprintf(stderr, "ds4-bench: error: %s\n", error.message.c_str());
  if (error.code == ErrorCode::kUsage) std::fputs("  ds4-bench --help explains the flags.\n", stderr);
  return ds4::exit_status(error.code);
}

/// A file that rows are appended to, line by line; "" is stdout.
class RowFile {
 public:
  static Result<RowFile> open(const std::string& path) {
    RowFile file;
    file.path_ = path.empty() ? "standard output" : path;
    if (path.empty()) return file;
    file.owned_.reset(std::fopen(path.c_str(), "w"));
    if (file.owned_ == nullptr)
      return Error{ErrorCode::kIo, cat(ds4::escaped(path, 4096), ": cannot create: ", std::strerror(errno))};
    return file;
  }
  /// What is measured so far is on disk even if the rest never is.
  Status append(std::string_view text) {
    std::FILE* to = owned_ ? owned_.get() : stdout;
    if (std::fwrite(text.data(), 1, text.size(), to) == text.size() && std::fflush(to) == 0) return {};
    return Error{ErrorCode::kIo, cat(ds4::escaped(path_, 4096), ": cannot write: ", std::strerror(errno))};
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> owned_;
};

/// The command line as a shell would take it again.
std::string shell_words(const std::vector<std::string>& arguments) {
  std::string out;
  for (const std::string& argument : arguments) {
    const bool plain = !argument.empty() && argument.find_first_of(" \t\n\"'\\$`&|;<>()*?") == std::string::npos;
    out += cat(out.empty() ? "" : " ", plain ? "" : "'", argument, plain ? "" : "'");
  }
  return out;
}

#if defined(DS4_CORE_ONLY)
const ds4::bench::ReadPrompt kReadPrompt;
#else
Result<std::vector<std::int32_t> > read_prompt(const ds4::gguf::File& file, const Options& options) {
  const bool chat = options.prompt_file.empty();
  const std::string& path = chat ? options.chat_prompt_file : options.prompt_file;
  std::ifstream in(path, std::ios::binary);
  if (!in) return Error{ErrorCode::kUsage, cat(ds4::escaped(path, 4096), ": cannot open: ", std::strerror(errno))};
  std::string text((std::istreambuf_iterator<char>(in)), {});
  DS4_ASSIGN_OR_RETURN(const auto tokenizer, ds4::Tokenizer::from_gguf(file));
  if (!tokenizer) return Error{ErrorCode::kUsage, "this model has no tokenizer: it takes random ids only"};
  if (!chat) return tokenizer->encode_text(text, /*match_added=*/false);
  ds4::chat::Conversation conversation;
  if (!options.system.empty())
    conversation.push_back(ds4::chat::text_message(ds4::chat::Role::kSystem, options.system));
  conversation.push_back(ds4::chat::text_message(ds4::chat::Role::kUser, std::move(text)));
  DS4_ASSIGN_OR_RETURN(const ds4::Prompt prompt, ds4::chat::render(conversation, {}));
  return tokenizer->encode(prompt);
}
const ds4::bench::ReadPrompt kReadPrompt = read_prompt;
#endif

Status run(const Options& options, const std::vector<std::string>& arguments) {
  DS4_ASSIGN_OR_RETURN(RowFile csv, RowFile::open(options.csv));
  std::optional<RowFile> ops_csv;
  if (!options.ops_csv.empty()) {
    DS4_ASSIGN_OR_RETURN(ops_csv, RowFile::open(options.ops_csv));
  }
  ds4::bench::Events events;
  events.note = [](std::string_view line) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
    std::fflush(stderr);
  };
  events.csv = [&](std::string_view text) { return csv.append(text); };
  events.ops_csv = [&](std::string_view text) { return ops_csv->append(text); };
  return ds4::bench::run(options, cat(DS4_VERSION, " ", DS4_COMMIT), shell_words(arguments), events, kReadPrompt);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const Result<Options> options = ds4::bench::parse_options(arguments);
  if (!options.ok()) return fail(options.error());
  if (options->help) {
    std::fputs(ds4::bench::help_text().c_str(), stdout);
    return 0;
  }
  if (options->version) {
    std::puts("ds4-bench " DS4_VERSION " " DS4_COMMIT);
    return 0;
  }
  const Status status = run(*options, arguments);
  return status.ok() ? 0 : fail(status.error());
}
