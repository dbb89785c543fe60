// Functions that the CPU executors, the CUDA kernels and the tests share.
#pragma once

#ifdef __CUDACC__
#define HICACHE_HD __host__ __device__ __forceinline__
#else
#define HICACHE_HD inline
#endif
