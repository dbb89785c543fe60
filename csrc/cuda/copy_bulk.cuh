// The persistent bulk-copy kernel: the ring of copy_ring.h in shared memory, filled and emptied by
// cp.async.bulk. From sm_90 on; in an older image the kernel is empty and is never launched.
#pragma once

#include "hicache/copy_ring.h"
#include "hicache/cuda_api.h"

namespace hicache {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

// One ring of a block: its barriers, then its slots. A bulk copy is ordered behind the barrier or
// the bulk group that was waited for, and all of them are of the async proxy: no fence between.
class BulkMemory {
 public:
  __device__ BulkMemory(uint32_t begin, uint32_t slot_bytes)
      : begin_(begin), slot_bytes_(slot_bytes) {
#pragma unroll
    for (int stage = 0; stage < kRingStages; ++stage)
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier(stage)) : "memory");
    // The barriers' own initial values are written by this thread and seen by the bulk copies.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }

  __device__ void begin_load(int stage, const std::byte* src, int32_t num_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier(stage)),
                 "r"(num_bytes)
                 : "memory");
    // To shared::cta: for shared::cluster ptxas calls a routine of the driver on sm_120.
    asm volatile(
        "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            slot(stage)),
        "l"(__cvta_generic_to_global(src)), "r"(num_bytes), "r"(barrier(stage))
        : "memory");
  }

  __device__ void finish_load(int stage, uint32_t parity) {
    uint32_t is_done = 0;
    while (is_done == 0)
      asm volatile(
          "{\n\t.reg .pred done;\n\t"
          "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n\t"
          "selp.u32 %0, 1, 0, done;\n\t}"
          : "=r"(is_done)
          : "r"(barrier(stage)), "r"(parity)
          : "memory");
  }

  __device__ void begin_store(int stage, std::byte* dst, int32_t num_bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                     __cvta_generic_to_global(dst)),
                 "r"(slot(stage)), "r"(num_bytes)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  }

  __device__ void free_all_but_one() {
    asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
  }

  // Not only read: the stores themselves are done, before the block gives its shared memory away.
  __device__ void finish_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

  __device__ void lower(uint64_t* target, uint64_t value) {
    atomicMin(reinterpret_cast<unsigned long long*>(target), value);
  }
  __device__ void add(uint64_t* target, uint64_t value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(target), value);
  }

 private:
  __device__ uint32_t barrier(int stage) const {
    return begin_ + stage * static_cast<uint32_t>(sizeof(uint64_t));
  }
  __device__ uint32_t slot(int stage) const { return barrier(kRingStages) + stage * slot_bytes_; }

  uint32_t begin_;  // addresses in the window of shared memory
  uint32_t slot_bytes_;
};

#endif

// Grid: any number of blocks of kRingThreads threads; the first rings_per_block of them, spread
// over the warps, are a ring each.
__global__ void __launch_bounds__(kRingThreads, 1)
    copy_bulk_kernel(const __grid_constant__ WorkerArgs args, uint32_t rings_per_block,
                     uint32_t slot_bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  constexpr uint32_t kWarps = kRingThreads / 32;
  const uint32_t ring = threadIdx.x % 32 * kWarps + threadIdx.x / 32;
  if (ring >= rings_per_block) return;
  const auto begin = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  BulkMemory memory(begin + ring * ring_bytes(slot_bytes), slot_bytes);
  run_ring(args, blockIdx.x * rings_per_block + ring, gridDim.x * rings_per_block, memory);
#endif
}

}  // namespace hicache
