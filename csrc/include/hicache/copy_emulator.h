// The register kernel's loop body on the CPU, for every (block, thread) of a grid: what it reads
// and writes, counted.
#pragma once

#include <cstdint>

#include "hicache/copy.h"

namespace hicache {

enum class EmulatedShape { kByRun, kShortRun, kLongRun };

struct Emulation {
  int64_t num_workers;
  int64_t num_misaligned;  // accesses that a GPU would fault on
  int64_t num_outside;     // accesses outside of the two buffers; they are not executed
  int64_t max_in_flight;   // most loads in a row of one lane
  uint64_t first_bad;      // as in CopyGuard
  uint64_t num_copied;
};

// Copies, and adds 1 to num_writes[i] for every write of byte i of the destination. The ids are
// guarded as on the device, not checked on the host.
Emulation emulate_copy(const CopyParams& params, int64_t src_bytes, int64_t dst_bytes,
                       uint32_t num_blocks, EmulatedShape shape, uint8_t* num_writes);

}  // namespace hicache
