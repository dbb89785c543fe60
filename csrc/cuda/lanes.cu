// Launches of the tick's kernels.
#include "hicache/cuda_check.h"
#include "lanes.cuh"

namespace hicache {

void preload_lane_kernels() {
  cudaFuncAttributes attributes{};
  HICACHE_CUDA_CHECK(cudaFuncGetAttributes(&attributes, pack_lanes_kernel));
  HICACHE_CUDA_CHECK(cudaFuncGetAttributes(&attributes, unpack_lanes_kernel));
}

void launch_pack_lanes(const PackArgs& args, CUstream_st* stream) {
  const int num_blocks = (args.schema.num_slots + kLaneThreads - 1) / kLaneThreads;
  pack_lanes_kernel<<<num_blocks, kLaneThreads, 0, stream>>>(args);
  HICACHE_CUDA_CHECK(cudaGetLastError());
}

void launch_unpack_lanes(const UnpackArgs& args, CUstream_st* stream) {
  unpack_lanes_kernel<<<1, kLaneThreads, 0, stream>>>(args);
  HICACHE_CUDA_CHECK(cudaGetLastError());
}

}  // namespace hicache
