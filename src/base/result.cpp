#include "base/result.h"

namespace ds4 {

int exit_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage: return 2;
    case ErrorCode::kBadModel: return 3;
    case ErrorCode::kOutOfMemory: return 4;
    case ErrorCode::kNoDevice: return 5;
    case ErrorCode::kCancelled: return 130;
    case ErrorCode::kFailure:
    case ErrorCode::kIo: return 1;
  }
  return 1;
}

}  // namespace ds4
