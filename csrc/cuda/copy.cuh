// The persistent register kernel: device memory access and the __global__ function around
// run_worker().
#pragma once

#include "hicache/copy_worker.h"

namespace hicache {

// Loads and stores that leave L1 to the model's kernels. Not .nc: a page may be written by another
// stream while a different page is copied, and the compiler must not assume that memory is
// constant. `volatile` keeps the loads of a round in front of its stores.
struct DeviceMemory {
  template <class Word>
  HICACHE_HD Word load([[maybe_unused]] const std::byte* address) const {
    Word word;
#ifdef __CUDA_ARCH__
    const size_t from = __cvta_generic_to_global(address);
    if constexpr (sizeof(Word) == 16)
      asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                   : "l"(from)
                   : "memory");
    else if constexpr (sizeof(Word) == 8)
      asm volatile("ld.global.L1::no_allocate.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
    else if constexpr (sizeof(Word) == 4)
      asm volatile("ld.global.L1::no_allocate.u32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
    else
      word = *reinterpret_cast<const volatile Word*>(global(address));
#else
    word = Word{};
#endif
    return word;
  }

  template <class Word>
  HICACHE_HD void store([[maybe_unused]] std::byte* address,
                        [[maybe_unused]] const Word& word) const {
#ifdef __CUDA_ARCH__
    const size_t to = __cvta_generic_to_global(address);
    if constexpr (sizeof(Word) == 16)
      asm volatile("st.global.L1::no_allocate.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to),
                   "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
                   : "memory");
    else if constexpr (sizeof(Word) == 8)
      asm volatile("st.global.L1::no_allocate.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
    else if constexpr (sizeof(Word) == 4)
      asm volatile("st.global.L1::no_allocate.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
    else
      *reinterpret_cast<volatile Word*>(global(address)) = word;
#endif
  }

  HICACHE_HD void lower([[maybe_unused]] uint64_t* target, [[maybe_unused]] uint64_t value) const {
#ifdef __CUDA_ARCH__
    atomicMin(reinterpret_cast<unsigned long long*>(target), value);
#endif
  }

  HICACHE_HD void add([[maybe_unused]] uint64_t* target, [[maybe_unused]] uint64_t value) const {
#ifdef __CUDA_ARCH__
    atomicAdd(reinterpret_cast<unsigned long long*>(target), value);
#endif
  }
};

// Grid: any number of blocks of Shape::kThreads threads; Shape::kLanes neighbours are one worker.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    copy_pages_kernel(const __grid_constant__ WorkerArgs args) {
  const uint32_t thread = blockIdx.x * Shape::kThreads + threadIdx.x;
  const uint32_t num_workers = gridDim.x * (Shape::kThreads / Shape::kLanes);
  DeviceMemory memory;
  run_worker<Shape::kLanes, Shape::kUnroll>(args, thread / Shape::kLanes, num_workers,
                                            thread % Shape::kLanes, memory);
}

}  // namespace hicache
