// What the flags of `ds4-server` say. Filled by main, read by app.cpp; plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/gatekeeper.h"
#include "server/http_server.h"
#include "server/service.h"

namespace ds4::server {

struct ServerOptions {
  std::string model;  // a path, already found
  EngineOptions engine;
  int parallel = 0;       // 0: as many as memory has room for, at most kMostParallel
  int resume_points = 3;  // for each of them
  bool warm_weights = false;
  int mixed_rows = 128;
  HttpOptions http;
  GateOptions gate;
  bool allow_keyless = false;  // beyond loopback
  ServiceOptions service;
  double drain_seconds = 30;
  std::string trace;
  std::string script;  // answers come from this file in place of the model
  bool quiet = false;
  DiskOptions disk;  // without a folder nothing is kept on disk
};

inline constexpr int kMostParallel = 4;

}  // namespace ds4::server
