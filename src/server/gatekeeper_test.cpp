#include "server/gatekeeper.h"

#include <gtest/gtest.h>

namespace ds4::server {
namespace {

using Refusal = Gatekeeper::Refusal;

HttpRequest request(Headers headers) {
  HttpRequest out;
  out.headers = std::move(headers);
  return out;
}

TEST(Gatekeeper, HostsThatAreThisMachine) {
  const Gatekeeper gate({.keys = {}, .hosts = {"box.lan"}, .origins = {}});
  for (const char* host : {"localhost", "localhost:8000", "LOCALHOST", "127.0.0.1", "127.0.0.1:1", "127.1.2.3", "[::1]",
                           "[::1]:8000", "box.lan", "Box.Lan:8000"}) {
    EXPECT_FALSE(gate.check(request({{"host", host}}), true)) << host;
  }
  for (const char* host : {"",
                           "evil.example",
                           "localhost.evil.example",
                           "evil-localhost",
                           "127.0.0.1.evil.example",
                           "127.0.0.1x",
                           "0.0.0.0",
                           "localhost.",
                           "localhost:80x",
                           "localhost:",
                           "[::1",
                           "[::1]x",
                           "[::2]",
                           "::1",
                           "127.0.0",
                           "127..0.1",
                           "127.0.0.1:80:80",
                           "box.lan.evil",
                           "xbox.lan",
                           "192.168.0.1",
                           "localhost evil",
                           "user@localhost",
                           "127.1",
                           "2130706433",
                           "0177.0.0.1"}) {
    EXPECT_EQ(gate.check(request({{"host", host}}), true), Refusal::kHost) << host;
  }
  EXPECT_EQ(gate.check(request({}), true), Refusal::kHost);
}

TEST(Gatekeeper, OriginsOfPages) {
  const Gatekeeper gate({.keys = {}, .hosts = {}, .origins = {"https://app.example"}});
  const auto check = [&](const char* origin) {
    return gate.check(request({{"host", "127.0.0.1:8000"}, {"origin", origin}}), true);
  };
  EXPECT_FALSE(check("https://app.example"));
  EXPECT_FALSE(check("http://127.0.0.1:8000"));  // our own page
  for (const char* origin :
       {"null", "", "https://evil.example", "https://app.example.evil", "https://xapp.example", "http://app.example",
        "https://app.example:444", "http://localhost.evil", "http://127.0.0.1:9000", "http://localhost:8000",
        "file://127.0.0.1:8000", "127.0.0.1:8000", "https://app.example/"}) {
    EXPECT_EQ(check(origin), Refusal::kOrigin) << origin;
  }
  EXPECT_EQ(gate.cors(request({{"origin", "https://app.example"}})).at(0).second, "https://app.example");
  EXPECT_TRUE(gate.cors(request({{"origin", "https://evil.example"}})).empty());
  EXPECT_TRUE(gate.cors(request({})).empty());
  const Gatekeeper any({.keys = {}, .hosts = {"*"}, .origins = {"*"}});
  EXPECT_FALSE(any.check(request({{"host", "whatever"}, {"origin", "https://evil.example"}}), true));
}

TEST(Gatekeeper, Keys) {
  const Gatekeeper gate({.keys = {"first-key", "second"}, .hosts = {}, .origins = {}});
  const auto check = [&](Headers headers) {
    headers.emplace_back("host", "localhost");
    return gate.check(request(std::move(headers)), false);
  };
  EXPECT_FALSE(check({{"authorization", "Bearer first-key"}}));
  EXPECT_FALSE(check({{"authorization", "bearer second"}}));
  EXPECT_FALSE(check({{"x-api-key", "second"}}));
  EXPECT_FALSE(check({{"x-api-key", "second"}, {"authorization", "Bearer first-key"}}));
  for (const Headers& headers : std::vector<Headers>{{},
                                                     {{"authorization", "Bearer first-ke"}},
                                                     {{"authorization", "Bearer first-keyx"}},
                                                     {{"authorization", "Bearer "}},
                                                     {{"authorization", "first-key"}},
                                                     {{"authorization", "Basic first-key"}},
                                                     {{"x-api-key", ""}},
                                                     {{"x-api-key", "First-key"}},
                                                     {{"x-api-key", std::string(1 << 20, 'k')}},
                                                     {{"x-api-key", "second"}, {"authorization", "Bearer wrong"}},
                                                     {{"x-api-key", "wrong"}, {"x-api-key", "second"}}}) {
    EXPECT_EQ(check(headers), Refusal::kKey);
  }
  EXPECT_FALSE(gate.check(request({{"host", "localhost"}}), true));  // an open route
}

TEST(Gatekeeper, LoopbackAddresses) {
  for (const char* address : {"127.0.0.1", "::1", "localhost", "127.9.9.9"}) EXPECT_TRUE(is_loopback(address));
  for (const char* address : {"0.0.0.0", "::", "192.168.1.1", "10.0.0.1", "127.0.0.1.x"})
    EXPECT_FALSE(is_loopback(address));
}

}  // namespace
}  // namespace ds4::server
