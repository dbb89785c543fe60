// The kernels' loop bodies on the CPU, for every (block, thread) of a grid: what it reads
// and writes, counted.
#pragma once

#include <cstdint>

#include "hicache/copy.h"

namespace hicache {

enum class EmulatedShape { kByRun, kShortRun, kLongRun, kBulk };

struct Emulation {
  int64_t num_workers;
  int64_t num_misaligned;  // accesses that a GPU would fault on
  int64_t num_outside;     // accesses outside of the two arenas; they are not executed
  int64_t max_in_flight;   // most loads in a row of one lane
  int64_t num_passes;
  uint64_t first_bad;  // as in CopyGuard
  uint64_t num_bytes;  // as in CopyGuard
};

// The memory in which all buffers of one side lie.
struct Arena {
  const std::byte* data;
  int64_t num_bytes;
};

struct EmulatedLaunch {
  EmulatedShape shape;
  uint32_t num_blocks;
  int64_t max_units = kMaxUnits - 1;  // of a pass
  uint32_t max_rings = UINT32_MAX;    // of a block of kBulk; few of them refill their slots often
};

// Copies, and adds 1 to num_writes[i] for every write of byte i of the destination arena. The ids
// are guarded as on the device, not checked on the host.
Emulation emulate_copy(const CopySet& set, const Arena& src, const Arena& dst,
                       const EmulatedLaunch& launch, uint8_t* num_writes);

}  // namespace hicache
