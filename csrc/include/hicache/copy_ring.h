// The loop body of the bulk-copy kernel, for host and device: a worker is a ring of slots in shared
// memory that bulk copies fill from global memory and empty into it. Each worker has its own slots
// and barriers and waits for nobody else, so the CPU can run one after the other.
#pragma once

#include "hicache/copy_worker.h"

namespace hicache {

constexpr int kRingStages = 4;
constexpr int kRingThreads = 128;
constexpr int64_t kBulkAlign = 16;  // of both addresses and the size of a bulk copy
constexpr uint32_t kRingBytes = 192 * 1024;

// Of one ring: its slots, and a barrier for each.
HICACHE_HD uint32_t ring_bytes(uint32_t slot_bytes) {
  return kRingStages * (slot_bytes + static_cast<uint32_t>(sizeof(uint64_t)));
}

// What one worker does: every num_workers-th unit. Loads run kRingStages - 1 segments ahead; a slot
// is refilled when the store after its own has been issued, so that one store is always under way.
template <class Memory>
HICACHE_HD void run_ring(const WorkerArgs& args, uint32_t worker, uint32_t num_workers,
                         Memory& memory) {
  Segment held[kRingStages] = {};
  const uint32_t num_units = args.pass.num_units();
  uint32_t unit = worker;
  // The first round only fills; a ring whose first slot stays empty has seen its last unit.
  for (uint32_t round = 0; round == 0 || held[0].num_bytes > 0; ++round) {
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
    for (int stage = 0; stage < kRingStages; ++stage) {
      if (round > 0 && held[stage].num_bytes > 0) {
        memory.finish_load(stage, (round - 1) % 2);
        memory.begin_store(stage, held[stage].dst, held[stage].num_bytes);
      }
      if (round == 0 && stage == 0) continue;
      const int before = (stage + kRingStages - 1) % kRingStages;
      memory.free_all_but_one();
      held[before].num_bytes = 0;
      for (; unit < num_units && held[before].num_bytes == 0; unit += num_workers)
        held[before] = segment_of(args, unit, true, memory);
      if (held[before].num_bytes > 0)
        memory.begin_load(before, held[before].src, held[before].num_bytes);
    }
  }
  memory.finish_stores();
}

}  // namespace hicache
