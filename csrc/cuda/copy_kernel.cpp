// See copy_kernel.h.
#include "hicache/copy_kernel.h"

#include <algorithm>

#include "hicache/check.h"
#include "hicache/copy_ring.h"

namespace hicache {
namespace {

template <class Shape>
CopyGrid register_grid() {
  return {0, Shape::kThreads / Shape::kLanes, 0};
}

CopyGrid ring_grid(const Pass& pass, uint32_t shared_bytes) {
  int64_t slot_bytes = 0;
  for (uint32_t i = 0; i < pass.set.num_parts; ++i)
    slot_bytes = std::max(slot_bytes, pass.tilings[i].segment_bytes);
  const auto slot = static_cast<uint32_t>(slot_bytes);
  return {0, std::min<uint32_t>(kRingThreads, shared_bytes / ring_bytes(slot)), slot};
}

bool is_bulk_aligned(const void* base, const uint64_t* planes, size_t num_planes) {
  uint64_t all = reinterpret_cast<uint64_t>(base);
  for (size_t i = 0; planes != nullptr && i < num_planes; ++i) all |= planes[i];
  return all % kBulkAlign == 0;
}

}  // namespace

CopyKernel register_kernel_for(const CopySet& set) {
  int64_t short_bytes = 0, all_bytes = 0;
  for (uint32_t part = 0; part < set.num_parts; ++part) {
    const int64_t num_bytes = set.parts[part].num_positions * page_bytes(set.parts[part].plan);
    all_bytes += num_bytes;
    if (set.parts[part].plan.run_bytes <= kShortRun) short_bytes += num_bytes;
  }
  return 2 * short_bytes > all_bytes ? CopyKernel::kShortRuns : CopyKernel::kLongRuns;
}

CopyGrid copy_grid(CopyKernel kernel, const Pass& pass, uint32_t max_blocks,
                   uint32_t shared_bytes) {
  CopyGrid grid = kernel == CopyKernel::kShortRuns  ? register_grid<ShortRunShape>()
                  : kernel == CopyKernel::kLongRuns ? register_grid<LongRunShape>()
                                                    : ring_grid(pass, shared_bytes);
  const uint32_t wanted = (pass.num_units() - 1) / grid.workers_per_block + 1;
  grid.num_blocks = std::min(wanted, max_blocks);
  return grid;
}

void require_bulk_runs(const CopySet& set) {
  for (uint32_t i = 0; i < set.num_parts; ++i) {
    const CopyParams& part = set.parts[i];
    HICACHE_CHECK(kLayout, part.plan.align_bytes % kBulkAlign == 0,
                  "sm_bulk moves runs that are aligned to ", kBulkAlign, " bytes: part=", i,
                  " has run_bytes=", part.plan.run_bytes, " aligned to ", part.plan.align_bytes);
    const bool is_aligned =
        is_bulk_aligned(part.src, part.src_planes, num_planes(part.plan, CopySide::kSource)) &&
        is_bulk_aligned(part.dst, part.dst_planes, num_planes(part.plan, CopySide::kDestination));
    HICACHE_CHECK(kLayout, is_aligned, "sm_bulk needs buffers at multiples of ", kBulkAlign,
                  " bytes: part=", i, " goes from ", static_cast<const void*>(part.src), " to ",
                  static_cast<const void*>(part.dst));
  }
}

size_t num_planes(const Plan& plan, CopySide side) {
  const bool is_source = side == CopySide::kSource;
  int64_t last = is_source ? plan.src_plane : plan.dst_plane;
  for (uint32_t i = 0; i < plan.num_axes; ++i) {
    const Axis& axis = plan.axes[i];
    last += (axis.extent - 1) * (is_source ? axis.src_planes : axis.dst_planes);
  }
  return static_cast<size_t>(last) + 1;
}

}  // namespace hicache
