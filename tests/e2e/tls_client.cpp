#include "tls_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>

namespace ds4::e2e {

namespace {

SSL* native(void* ssl) { return static_cast<SSL*>(ssl); }

}  // namespace

void make_certificate(const std::string& certificate, const std::string& key, const std::string& name) {
  EVP_PKEY* pair = EVP_EC_gen("P-256");
  X509* made = X509_new();
  X509_set_version(made, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(made), 1);
  X509_gmtime_adj(X509_getm_notBefore(made), 0);
  X509_gmtime_adj(X509_getm_notAfter(made), 3600);
  X509_set_pubkey(made, pair);
  X509_NAME* subject = X509_get_subject_name(made);
  const auto* text = reinterpret_cast<const unsigned char*>(name.c_str());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, text, -1, -1, 0);
  X509_set_issuer_name(made, subject);
  X509_sign(made, pair, EVP_sha256());
  std::FILE* out = std::fopen(certificate.c_str(), "w");
  PEM_write_X509(out, made);
  std::fclose(out);
  out = std::fopen(key.c_str(), "w");
  PEM_write_PrivateKey(out, pair, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(out);
  X509_free(made);
  EVP_PKEY_free(pair);
}

TlsConnection::TlsConnection(int port, int newest) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval limit{30, 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_security_level(context, 0);  // so that old versions are the server's to refuse
  SSL_CTX_set_min_proto_version(context, newest == 0 ? TLS1_2_VERSION : TLS1_VERSION);
  if (newest != 0) SSL_CTX_set_max_proto_version(context, newest);
  ssl_ = SSL_new(context);
  SSL_CTX_free(context);
  SSL_set_fd(native(ssl_), fd_);
  open_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 && SSL_connect(native(ssl_)) == 1;
}

TlsConnection::~TlsConnection() {
  SSL_free(native(ssl_));
  close(fd_);
}

std::string TlsConnection::name() const {
  X509* certificate = SSL_get1_peer_certificate(native(ssl_));
  char text[100] = {};
  if (certificate != nullptr) {
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, text, sizeof text);
  }
  X509_free(certificate);
  return text;
}

bool TlsConnection::more() {
  char block[16384];
  const int count = SSL_read(native(ssl_), block, sizeof block);
  if (count <= 0) return false;
  in_.append(block, static_cast<std::size_t>(count));
  return true;
}

Reply TlsConnection::ask(const std::string& request) {
  if (!open_ || SSL_write(native(ssl_), request.data(), static_cast<int>(request.size())) <= 0) return {};
  return take_reply(in_, true, [this] { return more(); });
}

bool TlsConnection::ended_properly() {
  while (more()) {
  }
  return (SSL_get_shutdown(native(ssl_)) & SSL_RECEIVED_SHUTDOWN) != 0;
}

}  // namespace ds4::e2e
