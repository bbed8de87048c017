// A client that speaks TLS, and certificates for it to meet. Whatever certificate the server shows is taken.
#pragma once

#include <string>

#include "http_client.h"

namespace ds4::e2e {

/// A self-signed certificate for `name` and its key, as PEM files.
void make_certificate(const std::string& certificate, const std::string& key, const std::string& name);

class TlsConnection {
 public:
  /// `newest`: as on the wire, 0x0303 for TLS 1.2; 0: any.
  explicit TlsConnection(int port, int newest = 0);
  ~TlsConnection();
  TlsConnection(const TlsConnection&) = delete;
  TlsConnection& operator=(const TlsConnection&) = delete;

  /// The handshake worked.
  bool open() const { return open_; }
  /// For whom the server's certificate was made.
  std::string name() const;
  Reply ask(const std::string& request);
  /// The server has said that nothing more will come, before it closed.
  bool ended_properly();

 private:
  bool more();
  void* ssl_ = nullptr;  // of OpenSSL
  int fd_ = -1;
  bool open_ = false;
  std::string in_;
};

}  // namespace ds4::e2e
