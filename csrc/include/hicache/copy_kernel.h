// Which kernel moves a copy, and with which grid.
#pragma once

#include <cstdint>

#include "hicache/copy_pass.h"

namespace hicache {

enum class CopyKernel { kShortRuns, kLongRuns, kBulk };

struct CopyGrid {
  uint32_t num_blocks;
  uint32_t workers_per_block;
  uint32_t slot_bytes;  // of a ring of kBulk
};

// The register kernel has one shape for a launch: that of the runs with most of the bytes.
CopyKernel register_kernel_for(const CopySet& set);

// Persistent blocks: as many as have something to do, at most max_blocks. shared_bytes: of a block.
CopyGrid copy_grid(CopyKernel kernel, const Pass& pass, uint32_t max_blocks, uint32_t shared_bytes);

// kBulk moves runs whose addresses and size are multiples of kBulkAlign; else Error(kLayout).
void require_bulk_runs(const CopySet& set);

enum class CopySide : uint32_t { kSource = 0, kDestination = 1 };

// Entries of a side's plane table that the plan reaches.
size_t num_planes(const Plan& plan, CopySide side);

}  // namespace hicache
