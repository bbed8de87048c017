#include "server/gatekeeper.h"

#include <sys/random.h>

#include <algorithm>

#include "base/check.h"
#include "base/rng.h"

namespace ds4::server {

namespace {

/// Every byte of a secret passes through the same steps; comparing digests takes the same time for any two.
std::pair<std::uint64_t, std::uint64_t> digest(std::string_view text, const std::uint64_t salt[2]) {
  std::uint64_t a = salt[0], b = salt[1];
  for (const char c : text) {
    a = splitmix64(a ^ static_cast<unsigned char>(c));
    b = splitmix64(b + a);
  }
  return {splitmix64(a ^ text.size()), splitmix64(b)};
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return out;
}

bool all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

/// 127.x.y.z with four plain numbers.
bool is_loopback_v4(std::string_view text) {
  if (!text.starts_with("127.")) return false;
  int parts = 0;
  while (true) {
    const std::size_t dot = text.find('.');
    const std::string_view part = text.substr(0, dot);
    if (!all_digits(part) || part.size() > 3) return false;
    ++parts;
    if (dot == std::string_view::npos) return parts == 4;
    text.remove_prefix(dot + 1);
  }
}

}  // namespace

bool may_be_page(const HttpRequest& request) {
  return std::ranges::any_of(request.headers, [](const auto& header) {
    const auto& [name, value] = header;
    return name == "origin" || name == "referer" || name == "cookie" || name.starts_with("sec-") ||
           (name == "user-agent" && value.find("Mozilla") != std::string::npos);
  });
}

bool is_loopback(std::string_view address) {
  return address == "localhost" || address == "::1" || is_loopback_v4(address);
}

Gatekeeper::Gatekeeper(GateOptions options) : options_(std::move(options)) {
  DS4_CHECK(getrandom(salt_, sizeof salt_, 0) == sizeof salt_);
  for (const std::string& key : options_.keys) digests_.push_back(digest(key, salt_));
}

bool Gatekeeper::host_allowed(std::string_view host) const {
  if (std::ranges::find(options_.hosts, "*") != options_.hosts.end()) return true;
  std::string_view name = host;
  if (name.starts_with('[')) {
    const std::size_t end = name.find(']');
    if (end == std::string_view::npos) return false;
    const std::string_view port = name.substr(end + 1);
    if (!port.empty() && (port[0] != ':' || !all_digits(port.substr(1)))) return false;
    name = name.substr(1, end - 1);
    if (name == "::1") return true;
  } else if (const std::size_t colon = name.find(':'); colon != std::string_view::npos) {
    if (!all_digits(name.substr(colon + 1))) return false;
    name = name.substr(0, colon);
  }
  const std::string plain = lower(name);
  if (is_loopback(plain) && plain != "::1") return true;
  return std::ranges::any_of(options_.hosts, [&](const std::string& allowed) {
    return lower(allowed) == plain || lower(allowed) == lower(host);
  });
}

bool Gatekeeper::origin_allowed(std::string_view origin) const {
  const std::string plain = lower(origin);
  return std::ranges::any_of(options_.origins,
                             [&](const std::string& allowed) { return allowed == "*" || lower(allowed) == plain; });
}

bool Gatekeeper::key_allowed(const HttpRequest& request) const {
  if (digests_.empty()) return true;
  std::string_view given;
  int headers = 0;
  for (const auto& [name, value] : request.headers) {
    if (name == "x-api-key") {
      given = value;
      ++headers;
    } else if (name == "authorization") {
      given = value;
      const bool bearer = lower(given.substr(0, 7)) == "bearer ";
      given = bearer ? given.substr(7) : std::string_view();
      ++headers;
    }
  }
  // Some clients send their key in both places: each must be right on its own.
  if (headers == 0 || given.size() > 4096) return false;
  const auto matches = [&](std::string_view key) {
    const auto seen = digest(key, salt_);
    std::uint64_t hit = 0;
    for (const auto& [a, b] : digests_) hit |= static_cast<std::uint64_t>(((a ^ seen.first) | (b ^ seen.second)) == 0);
    return hit != 0;
  };
  if (!matches(given)) return false;
  if (headers == 1) return true;
  const std::string_view other = request.header("x-api-key");
  const std::string_view bearer = request.header("authorization");
  return headers == 2 && matches(other) && bearer.size() > 7 && matches(bearer.substr(7));
}

std::optional<Gatekeeper::Refusal> Gatekeeper::check(const HttpRequest& request, bool open) const {
  // HTTP/1.0 may leave the Host out; a browser never does.
  if (request.has("host") ? !host_allowed(request.header("host")) : request.minor != 0) {
    if (options_.loopback || !options_.hosts.empty()) return Refusal::kHost;
    if (!request.has("host")) return Refusal::kHost;
  }
  if (request.has("origin")) {
    // A page that this server itself gave out has our own name as its origin.
    const std::string_view origin = request.header("origin");
    const std::size_t scheme = origin.find("://");
    const bool own = scheme != std::string_view::npos && origin.substr(scheme + 3) == request.header("host") &&
                     (origin.starts_with("http://") || origin.starts_with("https://"));
    if (!own && !origin_allowed(origin)) return Refusal::kOrigin;
  }
  if (!open && !key_allowed(request)) return Refusal::kKey;
  return std::nullopt;
}

Headers Gatekeeper::cors(const HttpRequest& request) const {
  if (!request.has("origin") || !origin_allowed(request.header("origin"))) return {};
  return {{"Access-Control-Allow-Origin", std::string(request.header("origin"))},
          {"Vary", "Origin"},
          {"Access-Control-Expose-Headers", "x-request-id, request-id, retry-after"}};
}

}  // namespace ds4::server
