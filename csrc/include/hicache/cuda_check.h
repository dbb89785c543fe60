// CUDA runtime errors as Error(kCuda), with the call and the runtime's own text; nothing sticky is
// left.
#pragma once

#include <cuda_runtime_api.h>

#include "hicache/check.h"

#define HICACHE_CUDA_CHECK(call)                                                                 \
  do {                                                                                           \
    const cudaError_t hicache_code = (call);                                                     \
    if (hicache_code != cudaSuccess) [[unlikely]] {                                              \
      cudaGetLastError(); /* else the next, innocent call reports it again */                    \
      ::hicache::raise(::hicache::ErrorKind::kCuda, #call, ": ", cudaGetErrorName(hicache_code), \
                       " (", cudaGetErrorString(hicache_code), ")");                             \
    }                                                                                            \
  } while (0)
