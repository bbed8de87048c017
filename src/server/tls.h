// What a server needs to speak TLS: a certificate with its chain, and its key, from PEM files. TLS 1.2 and newer.
// Part of http_server.cpp, which owns the contexts.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <memory>
#include <string>

#include "base/result.h"

namespace ds4::server {

/// Errors name the file.
Result<std::shared_ptr<boost::asio::ssl::context>> make_tls(const std::string& certificate, const std::string& key);

}  // namespace ds4::server
