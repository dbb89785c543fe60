// The kernels' loop bodies for every (block, thread) of a grid, one after the other, on a memory
// that the caller brings.
#pragma once

#include <cstring>
#include <vector>

#include "hicache/copy_ring.h"

namespace hicache {

// The slots of one ring over `Base`, which has load(), store() and the guard's operations. Bulk
// copies happen as late as the protocol allows: a load when it is waited for, a store when its slot
// is free again, so that a slot reused too early shows in the bytes.
template <class Base>
class RingMemory {
 public:
  RingMemory(Base& base, uint32_t slot_bytes) : base_(base), slot_bytes_(slot_bytes) {
    memory_.resize(size_t{kRingStages} * slot_bytes);
  }

  void begin_load(int stage, const std::byte* src, int32_t num_bytes) {
    loads_[stage] = {src, num_bytes};
  }
  // A barrier that is waited for in the wrong phase is never passed on a GPU.
  void finish_load(int stage, uint32_t parity) {
    if (parity != phases_[stage]++ % 2) base_.report_deadlock();
    move(loads_[stage].num_bytes, [&](int32_t at) {
      const auto word = base_.template load<Vec16>(loads_[stage].src + at);
      std::memcpy(slot(stage) + at, &word, sizeof(word));
    });
  }
  void begin_store(int stage, std::byte* dst, int32_t num_bytes) {
    stores_.push_back({stage, dst, num_bytes});
  }
  void free_all_but_one() { finish_stores(1); }
  void finish_stores() { finish_stores(0); }

  void lower(uint64_t* target, uint64_t value) { base_.lower(target, value); }
  void add(uint64_t* target, uint64_t value) { base_.add(target, value); }

 private:
  struct Load {
    const std::byte* src;
    int32_t num_bytes;
  };
  struct Store {
    int stage;
    std::byte* dst;
    int32_t num_bytes;
  };

  std::byte* slot(int stage) { return memory_.data() + static_cast<size_t>(stage) * slot_bytes_; }

  template <class Fn>
  static void move(int32_t num_bytes, const Fn& fn) {
    for (int32_t at = 0; at < num_bytes; at += static_cast<int32_t>(sizeof(Vec16))) fn(at);
  }

  void finish_stores(size_t but) {
    while (stores_.size() > but) {
      const Store store = stores_.front();
      stores_.erase(stores_.begin());
      move(store.num_bytes, [&](int32_t at) {
        Vec16 word;
        std::memcpy(&word, slot(store.stage) + at, sizeof(word));
        base_.store(store.dst + at, word);
      });
    }
  }

  Base& base_;
  uint32_t slot_bytes_;
  std::vector<std::byte> memory_;
  Load loads_[kRingStages] = {};
  uint32_t phases_[kRingStages] = {};
  std::vector<Store> stores_;
};

template <class Shape, class Memory>
void run_register_grid(const WorkerArgs& args, uint32_t num_blocks, Memory& memory) {
  const uint32_t num_workers = num_blocks * (Shape::kThreads / Shape::kLanes);
  for (uint32_t thread = 0; thread < num_blocks * Shape::kThreads; ++thread)
    run_worker<Shape::kLanes, Shape::kUnroll>(args, thread / Shape::kLanes, num_workers,
                                              thread % Shape::kLanes, memory);
}

template <class Memory>
void run_grid(CopyKernel kernel, const WorkerArgs& args, const CopyGrid& grid, Memory& memory) {
  if (kernel == CopyKernel::kShortRuns)
    return run_register_grid<ShortRunShape>(args, grid.num_blocks, memory);
  if (kernel == CopyKernel::kLongRuns)
    return run_register_grid<LongRunShape>(args, grid.num_blocks, memory);
  const uint32_t num_workers = grid.num_blocks * grid.workers_per_block;
  for (uint32_t worker = 0; worker < num_workers; ++worker) {
    RingMemory<Memory> ring(memory, grid.slot_bytes);
    run_ring(args, worker, num_workers, ring);
  }
}

}  // namespace hicache
