// Functions that the CPU executors, the CUDA kernels and the tests share.
#pragma once

#ifdef __CUDACC__
#define HICACHE_HD __host__ __device__ __forceinline__
#else
#define HICACHE_HD inline
#endif

namespace hicache {

// Tells the compiler that a kernel finds `address` in global memory.
template <class T>
HICACHE_HD T* global(T* address) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(address));
#endif
  return address;
}

}  // namespace hicache
