// Result<T>: a value or an Error. Input errors (files, requests, flags, memory, devices) travel as values;
// bugs are DS4_CHECK. The code decides the exit status of a program and the status of an HTTP answer.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace ds4 {

enum class ErrorCode {
  kFailure,      // none of the others
  kUsage,        // a flag or an argument
  kBadModel,     // a model file that cannot be used
  kOutOfMemory,  // the plan does not fit
  kNoDevice,     // the device is missing or failed
  kCancelled,    // the caller asked to stop
  kIo,           // the operating system refused a read or a write
};

/// What was done, to what, what was expected and what was found.
struct Error {
  ErrorCode code = ErrorCode::kFailure;
  std::string message;
};

/// Exit status of a program that ends with this error: 1 failure, 2 usage, 3 model, 4 memory, 5 device, 130 cancelled.
[[nodiscard]] int exit_status(ErrorCode code);

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit by design
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    DS4_CHECK(ok());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    DS4_CHECK(ok());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    DS4_CHECK(ok());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const& {
    DS4_CHECK(!ok());
    return *std::get_if<1>(&state_);
  }
  Error&& error() && {
    DS4_CHECK(!ok());
    return std::move(*std::get_if<1>(&state_));
  }

 private:
  std::variant<T, Error> state_;
};

/// A Result without a value. `Status::ok_status()` or just `{}` is success.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : failed_(true), error_(std::move(error)) {}  // NOLINT
  bool ok() const { return !failed_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const& {
    DS4_CHECK(failed_);
    return error_;
  }
  Error&& error() && {
    DS4_CHECK(failed_);
    return std::move(error_);
  }

 private:
  bool failed_ = false;
  Error error_;
};

using Status = Result<void>;

}  // namespace ds4

/// Leaves the enclosing function with the error of `expression`, if there is one.
#define DS4_RETURN_IF_ERROR(expression)                         \
  do {                                                          \
    auto ds4_status = (expression);                             \
    if (!ds4_status.ok()) return std::move(ds4_status).error(); \
  } while (false)

#define DS4_CONCAT_INNER(a, b) a##b
#define DS4_CONCAT(a, b) DS4_CONCAT_INNER(a, b)

/// DS4_ASSIGN_OR_RETURN(auto file, File::open(path)): binds the value, or leaves with the error.
#define DS4_ASSIGN_OR_RETURN(declaration, expression)                                                       \
  auto DS4_CONCAT(ds4_result_, __LINE__) = (expression);                                                    \
  if (!DS4_CONCAT(ds4_result_, __LINE__).ok()) return std::move(DS4_CONCAT(ds4_result_, __LINE__)).error(); \
  declaration = std::move(DS4_CONCAT(ds4_result_, __LINE__)).value()
