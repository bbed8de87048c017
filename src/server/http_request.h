// A request and an answer as values, without sockets.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ds4::server {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string target;  // as sent
  std::string path;    // without the query
  std::string query;
  int minor = 1;    // of HTTP/1.x
  Headers headers;  // names in lower case
  std::string body;
  std::string id;  // x-request-id of the client if it is a sane one, or ours

  /// The first header of this (lower-case) name; empty when there is none.
  std::string_view header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return {};
  }
  bool has(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return true;
    }
    return false;
  }
};

struct HttpReply {
  int status = 200;
  std::string type = "application/json";
  std::string body;
  Headers headers = {};
};

std::string_view reason_phrase(int status);

}  // namespace ds4::server
