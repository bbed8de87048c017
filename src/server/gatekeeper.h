// Who may ask: API keys, the names a request may give as Host, the origins whose pages may call. On a loopback address
// the check of the Host keeps out pages that had their name resolve to it. Immutable after creation; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/http_request.h"

namespace ds4::server {

struct GateOptions {
  std::vector<std::string> keys;     // none: everybody who reaches the port
  std::vector<std::string> hosts;    // besides localhost and numeric addresses of loopback; "*" for any
  std::vector<std::string> origins;  // "https://app.example"; "*" for any
  bool loopback = true;              // the server listens there only
};

class Gatekeeper {
 public:
  explicit Gatekeeper(GateOptions options);

  enum class Refusal { kHost, kOrigin, kKey };
  /// `open`: a route that needs no key.
  std::optional<Refusal> check(const HttpRequest& request, bool open) const;
  /// What an allowed page needs to see in an answer; empty without an Origin.
  Headers cors(const HttpRequest& request) const;

  bool host_allowed(std::string_view host) const;
  bool origin_allowed(std::string_view origin) const;
  bool key_allowed(const HttpRequest& request) const;

 private:
  GateOptions options_;
  std::uint64_t salt_[2];
  std::vector<std::pair<std::uint64_t, std::uint64_t>> digests_;  // of the keys
};

/// Might a page in a browser have caused this request? Browsers say so in one of several ways, programs do not.
bool may_be_page(const HttpRequest& request);

/// Is this address of the machine itself?
bool is_loopback(std::string_view address);

}  // namespace ds4::server
