#include "server/web_page.h"

#include <algorithm>

namespace ds4::server {

namespace {

/// Nothing but our own files and our own server; no inline code, no text that becomes markup, no frame around the page.
constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

}  // namespace

HttpReply web_page(const HttpRequest& request) {
  constexpr std::string_view kFolder = "/web/";
  const std::string_view path = request.path;
  const std::string_view name = path == "/" ? "index.html" : path.substr(std::min(kFolder.size(), path.size()));
  const auto files = web_files();
  const auto file = std::ranges::find(files, name, &WebFile::name);
  if (file == files.end() || (path != "/" && name == "index.html")) {
    return {404, "text/plain; charset=utf-8", "there is nothing here\n", {}};
  }
  HttpReply reply{200,
                  std::string(file->type),
                  {},
                  {{"ETag", std::string(file->etag)},
                   {"Cache-Control", "no-cache"},  // ask each time; the digest makes it cheap
                   {"Content-Security-Policy", kPolicy},
                   {"X-Content-Type-Options", "nosniff"},
                   {"Referrer-Policy", "no-referrer"},
                   {"Cross-Origin-Opener-Policy", "same-origin"},
                   {"Cross-Origin-Resource-Policy", "same-origin"}}};
  if (request.header("if-none-match").find(file->etag) != std::string_view::npos) {
    reply.status = 304;
    reply.type.clear();
  } else {
    reply.body = file->body;
  }
  return reply;
}

}  // namespace ds4::server
