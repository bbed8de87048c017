#include "fault_case.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/text.h"
#include "dense_cases.h"

namespace ds4::conformance {

namespace {

constexpr int kRows = 5;

__global__ void write_to(int* address) { *address = 1; }

Result<std::unique_ptr<Rig>> make(const BackendOptions& device, const Shape& shape) {
  return Rig::create(device, shape, KvFormat::kF32, kRows, 1024);
}

const Shape& small_shape() {
  static const std::vector<Shape> shapes = all_shapes();
  return *std::find_if(shapes.begin(), shapes.end(), [](const Shape& shape) { return shape.name == "small-odd"; });
}

/// Bytes to the card and back: what a card that is down cannot do.
Status echo(Backend& backend) {
  const std::vector<std::int32_t> sent(1000, 12345);
  std::vector<std::int32_t> found(sent.size());
  DS4_ASSIGN_OR_RETURN(const Buffer buffer, backend.allocate(sent.size() * sizeof(std::int32_t)));
  backend.upload(buffer.data(), sent.data(), buffer.bytes());
  DS4_RETURN_IF_ERROR(backend.download(found.data(), buffer.data(), buffer.bytes()));
  if (found != sent) return Error{ErrorCode::kFailure, "what was copied to the card and back is not what was sent"};
  return backend.health();
}

void check_computes(Rig& rig, const std::string& when, Report& report) {
  BackendOptions options;
  options.device = "reference";
  const auto reference = make(options, rig.shape());
  report.check(reference.ok(), when, "the reference");
  if (!reference.ok()) return;
  std::vector<int> rows(kRows);
  std::iota(rows.begin(), rows.end(), 0);
  for (const DenseCase& c : dense_cases(rig.shape(), DType::kF32, kRows)) {
    const std::vector<Output> expected = c.run(**reference, rows);
    const std::vector<Output> found = c.run(rig, rows);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const Distance d = distance(expected[i].floats, found[i].floats);
      report.check(d.largest <= c.bound && expected[i].ints == found[i].ints,
                   cat(when, ": ", c.op, ".", expected[i].name), cat("difference ", d.largest, ", bound ", c.bound));
    }
  }
}

/// An error of the device that names what happened.
void check_told(const Status& status, const std::string& what, Report& report) {
  const bool told = !status.ok() && status.error().code == ErrorCode::kNoDevice &&
                    status.error().message.find("illegal") != std::string::npos;
  report.check(told, what, status.ok() ? "no error" : status.error().message);
}

void break_card(Backend& backend, Report& report) {
  report.check(backend.health().ok(), "health before the fault", "ok");
  int* const nowhere = reinterpret_cast<int*>(std::uintptr_t{1} << 46);
  write_to<<<1, 1>>>(nowhere);
  cudaDeviceSynchronize();  // the kernel is not on the backend's stream
  const std::int32_t zero[1] = {0};
  const Segment segment{0, 1, 0, 0, {}};
  backend.begin({1, zero, zero, {&segment, 1}, {}, false});
  check_told(backend.wait(), "wait", report);
  check_told(backend.health(), "health", report);
  check_told(backend.wait(), "wait again", report);
  check_told(echo(backend), "allocate, upload, download", report);
}

}  // namespace

void run_fault(const BackendOptions& device, Report& report) {
  auto first = make(device, small_shape());
  report.check(first.ok(), "a backend", first.ok() ? "made" : first.error().message);
  if (!first.ok()) return;
  std::unique_ptr<Rig> rig = std::move(first).value();
  check_computes(*rig, "before a fault", report);
  for (int round = 1; round <= 2; ++round) {
    break_card(rig->backend(), report);
    rig.reset();
    auto again = make(device, small_shape());
    const Status works = again.ok() ? echo((*again)->backend()) : Status(again.error());
    if (!works.ok()) {
      report.check(works.error().code == ErrorCode::kNoDevice, cat("rebuild ", round), works.error().message);
      std::printf("after the fault the card cannot be used in this process: %s\n", works.error().message.c_str());
      return;
    }
    rig = std::move(again).value();
    check_computes(*rig, cat("after rebuild ", round), report);
  }
  std::printf("after a fault the card computes again in the same process\n");
}

}  // namespace ds4::conformance
