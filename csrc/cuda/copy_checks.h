// What must hold before a copy on a stream enqueues anything.
#pragma once

#include "hicache/copy_worker.h"
#include "hicache/cuda_api.h"
#include "hicache/cuda_copy.h"

namespace hicache {

struct CheckedCopy {
  DeviceTraits traits;
  CopySide host_side;  // of staged
  bool with_host;      // some buffer lies in host memory
  bool has_host_ids;   // all page ids were checked, and the bytes to move counted
  bool is_captured;
  int64_t num_bytes;
};

// Throws Error(kLayout, kPageIndex or kCuda). The device of the options is the current one.
CheckedCopy check_cuda_copy(CudaApi& cuda, const CopySet& set, const CudaCopyOptions& options);

}  // namespace hicache
