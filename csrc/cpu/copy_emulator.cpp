// Runs run_worker() with a memory that counts.
#include "hicache/copy_emulator.h"

#include <algorithm>
#include <cstring>

#include "hicache/check.h"
#include "hicache/copy_worker.h"

namespace hicache {
namespace {

class CountingMemory {
 public:
  CountingMemory(const CopyParams& params, int64_t src_bytes, int64_t dst_bytes,
                 uint8_t* num_writes, Emulation& seen)
      : src_(params.src),
        dst_(params.dst),
        src_bytes_(src_bytes),
        dst_bytes_(dst_bytes),
        num_writes_(num_writes),
        seen_(seen) {}

  template <class Word>
  Word load(const std::byte* address) {
    Word word{};
    seen_.max_in_flight = std::max(seen_.max_in_flight, ++num_loads_);
    if (admit(address, sizeof(Word), src_, src_bytes_)) std::memcpy(&word, address, sizeof(Word));
    return word;
  }

  template <class Word>
  void store(std::byte* address, const Word& word) {
    num_loads_ = 0;
    if (!admit(address, sizeof(Word), dst_, dst_bytes_)) return;
    std::memcpy(address, &word, sizeof(Word));
    for (size_t i = 0; i < sizeof(Word); ++i)
      ++num_writes_[address - dst_ + static_cast<int64_t>(i)];
  }

  void lower(uint64_t* target, uint64_t value) { *target = std::min(*target, value); }
  void increment(uint64_t* target) { ++*target; }

 private:
  bool admit(const std::byte* address, size_t width, const std::byte* base, int64_t num_bytes) {
    seen_.num_misaligned += reinterpret_cast<uintptr_t>(address) % width != 0;
    const bool inside =
        address >= base && address - base + static_cast<int64_t>(width) <= num_bytes;
    seen_.num_outside += !inside;
    return inside;
  }

  const std::byte* src_;
  const std::byte* dst_;
  int64_t src_bytes_;
  int64_t dst_bytes_;
  uint8_t* num_writes_;
  Emulation& seen_;
  int64_t num_loads_ = 0;
};

template <class Shape>
void run_grid(const WorkerArgs& args, uint32_t num_blocks, CountingMemory& memory,
              Emulation& seen) {
  const uint32_t num_workers = num_blocks * (Shape::kThreads / Shape::kLanes);
  seen.num_workers = num_workers;
  for (uint32_t thread = 0; thread < num_blocks * Shape::kThreads; ++thread)
    run_worker<Shape::kLanes, Shape::kUnroll>(args, thread / Shape::kLanes, num_workers,
                                              thread % Shape::kLanes, memory);
}

}  // namespace

Emulation emulate_copy(const CopyParams& params, int64_t src_bytes, int64_t dst_bytes,
                       uint32_t num_blocks, EmulatedShape shape, uint8_t* num_writes) {
  WorkerArgs args{params, make_tiling(params.plan, kSegmentBytes), 0, 0, nullptr};
  HICACHE_CHECK(kLayout, params.num_positions <= max_positions(params.plan, args.tiling),
                "more than one pass: num_positions=", params.num_positions);
  args.num_units = static_cast<uint32_t>(params.num_positions) * params.plan.runs_per_page.divisor *
                   args.tiling.segments_per_run.divisor;
  CopyGuard guard{kNoBadPage, 0};
  args.guard = &guard;
  Emulation seen{};
  CountingMemory memory(params, src_bytes, dst_bytes, num_writes, seen);
  const bool by_run = shape == EmulatedShape::kByRun;
  if (by_run ? params.plan.run_bytes <= kShortRun : shape == EmulatedShape::kShortRun)
    run_grid<ShortRunShape>(args, num_blocks, memory, seen);
  else
    run_grid<LongRunShape>(args, num_blocks, memory, seen);
  seen.first_bad = guard.first_bad;
  seen.num_copied = guard.num_copied;
  return seen;
}

}  // namespace hicache
