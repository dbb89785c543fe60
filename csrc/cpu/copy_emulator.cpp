// Runs run_worker() with a memory that counts.
#include "hicache/copy_emulator.h"

#include <algorithm>
#include <cstring>

#include "hicache/copy_worker.h"

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

Emulation emulate_copy(const CopySet& set, const Arena& src, const Arena& dst, uint32_t num_blocks,
                       EmulatedShape shape, int64_t max_units, uint8_t* num_writes) {
  CopyGuard guard{kNoBadPage, 0};
  Emulation seen{};
  CountingMemory memory(src, dst, num_writes, seen);
  const bool is_short =
      shape == EmulatedShape::kByRun ? has_short_runs(set) : shape == EmulatedShape::kShortRun;
  const auto run_pass = [&](const Pass& pass) {
    const WorkerArgs args{pass, &guard};
    ++seen.num_passes;
    if (is_short)
      run_grid<ShortRunShape>(args, num_blocks, memory, seen);
    else
      run_grid<LongRunShape>(args, num_blocks, memory, seen);
  };
  for_each_pass(set, kSegmentBytes, run_pass, max_units);
  seen.first_bad = guard.first_bad;
  seen.num_bytes = guard.num_bytes;
  return seen;
}

}  // namespace hicache
