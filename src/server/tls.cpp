#include "server/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/text.h"

namespace ds4::server {

namespace {

using Context = boost::asio::ssl::context;

Error bad(std::string_view flag, const std::string& path, std::string_view problem) {
  return {ErrorCode::kUsage, cat(flag, " ", escaped(path, 4096), ": ", problem)};
}

/// OpenSSL's own words for what went wrong first.
std::string reason() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
  return text == nullptr ? "unknown reason" : text;
}

/// A missing file is said as what it is.
Status readable(std::string_view flag, const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return bad(flag, path, cat("cannot be read: ", std::strerror(errno)));
  std::fclose(file);
  return {};
}

/// A key with a passphrase would make OpenSSL ask for it on the terminal.
int no_passphrase(char*, int, int, void*) { return -1; }

}  // namespace

Result<std::shared_ptr<Context>> make_tls(const std::string& certificate, const std::string& key) {
  DS4_RETURN_IF_ERROR(readable("--tls-cert", certificate));
  DS4_RETURN_IF_ERROR(readable("--tls-key", key));
  auto context = std::make_shared<Context>(Context::tls_server);
  SSL_CTX* native = context->native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION);
  SSL_CTX_set_options(native, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_mode(native, SSL_MODE_RELEASE_BUFFERS);  // an idle connection keeps no buffers
  SSL_CTX_set_default_passwd_cb(native, no_passphrase);
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(native, certificate.c_str()) != 1) {
    return bad("--tls-cert", certificate, cat("expected a certificate in PEM form, found none: ", reason()));
  }
  if (SSL_CTX_use_PrivateKey_file(native, key.c_str(), SSL_FILETYPE_PEM) != 1) {
    const bool other = ERR_GET_REASON(ERR_peek_error()) == X509_R_KEY_VALUES_MISMATCH;
    if (other) return bad("--tls-key", key, cat("is not the key of the certificate ", escaped(certificate, 4096)));
    return bad("--tls-key", key, cat("expected a key in PEM form, without a passphrase: ", reason()));
  }
  if (SSL_CTX_check_private_key(native) != 1) {
    return bad("--tls-key", key, cat("is not the key of the certificate ", escaped(certificate, 4096)));
  }
  return context;
}

}  // namespace ds4::server
