// Runs the loop bodies of the kernels with a memory that counts.
#include "hicache/copy_emulator.h"

#include <algorithm>
#include <cstring>

#include "emulated_grid.h"
#include "hicache/check.h"
#include "hicache/copy_kernel.h"

namespace hicache {
namespace {

class CountingMemory {
 public:
  CountingMemory(const Arena& src, const Arena& dst, uint8_t* num_writes, Emulation& seen)
      : src_(src), dst_(dst), num_writes_(num_writes), seen_(seen) {}

  template <class Word>
  Word load(const std::byte* address) {
    Word word{};
    seen_.max_in_flight = std::max(seen_.max_in_flight, ++num_loads_);
    if (admit(address, sizeof(Word), src_)) std::memcpy(&word, address, sizeof(Word));
    return word;
  }

  template <class Word>
  void store(std::byte* address, const Word& word) {
    num_loads_ = 0;
    if (!admit(address, sizeof(Word), dst_)) return;
    std::memcpy(address, &word, sizeof(Word));
    for (size_t i = 0; i < sizeof(Word); ++i)
      ++num_writes_[address - dst_.data + static_cast<int64_t>(i)];
  }

  void lower(uint64_t* target, uint64_t value) { *target = std::min(*target, value); }
  void add(uint64_t* target, uint64_t value) { *target += value; }
  void report_deadlock() { raise(ErrorKind::kCuda, "a barrier is waited for in the wrong phase"); }

 private:
  bool admit(const std::byte* address, size_t width, const Arena& arena) {
    seen_.num_misaligned += reinterpret_cast<uintptr_t>(address) % width != 0;
    const bool inside = address >= arena.data &&
                        address - arena.data + static_cast<int64_t>(width) <= arena.num_bytes;
    seen_.num_outside += !inside;
    return inside;
  }

  Arena src_;
  Arena dst_;
  uint8_t* num_writes_;
  Emulation& seen_;
  int64_t num_loads_ = 0;
};

CopyKernel kernel_of(EmulatedShape shape, const CopySet& set) {
  switch (shape) {
    case EmulatedShape::kShortRun: return CopyKernel::kShortRuns;
    case EmulatedShape::kLongRun: return CopyKernel::kLongRuns;
    case EmulatedShape::kBulk: return CopyKernel::kBulk;
    default: return register_kernel_for(set);
  }
}

}  // namespace

Emulation emulate_copy(const CopySet& set, const Arena& src, const Arena& dst,
                       const EmulatedLaunch& launch, uint8_t* num_writes) {
  CopyGuard guard{kNoBadPage, 0};
  Emulation seen{};
  CountingMemory memory(src, dst, num_writes, seen);
  const CopyKernel kernel = kernel_of(launch.shape, set);
  if (kernel == CopyKernel::kBulk) require_bulk_runs(set);
  const auto run_pass = [&](const Pass& pass) {
    CopyGrid grid = copy_grid(kernel, pass, launch.num_blocks, kRingBytes);
    grid.num_blocks = launch.num_blocks;  // also more than have something to do
    if (kernel == CopyKernel::kBulk)
      grid.workers_per_block = std::min(grid.workers_per_block, launch.max_rings);
    seen.num_workers = grid.num_blocks * grid.workers_per_block;
    ++seen.num_passes;
    run_grid(kernel, {pass, &guard}, grid, memory);
  };
  for_each_pass(set, kSegmentBytes, run_pass, launch.max_units);
  seen.first_bad = guard.first_bad;
  seen.num_bytes = guard.num_bytes;
  return seen;
}

}  // namespace hicache
