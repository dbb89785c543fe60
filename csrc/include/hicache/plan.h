// What a copy of pages is: a few integers. locate() is the only function of the project that
// multiplies strides; the CPU and CUDA executors share it, and all of it is 64-bit.
#pragma once

#include <cstdint>

#include "hicache/hd.h"

namespace hicache {

// n / divisor for n < 2^31 as a multiplication and a shift (a 64-bit division on the GPU is a
// call).
struct FastDiv {
  uint32_t divisor;
  uint32_t magic;
  uint32_t shift;

  static FastDiv make(uint32_t divisor);

  HICACHE_HD uint32_t div(uint32_t n) const {
    return static_cast<uint32_t>((static_cast<uint64_t>(n) * magic) >> shift);
  }
};

// Logical axes inside a page, as bits: a merged axis carries several.
enum AxisBit : uint32_t {
  kAxisHead = 1,
  kAxisToken = 2,
  kAxisFineGroup = 4,
  kAxisGroup = 8,
  kAxisKv = 16,
  kAxisLayer = 32,
};

constexpr int kMaxAxes = 6;
constexpr int64_t kMaxUnits = int64_t{1} << 31;  // exclusive; what FastDiv can divide

struct Axis {
  FastDiv extent;
  int64_t src_stride;  // bytes
  int64_t dst_stride;  // bytes
};

// One page of the source becomes one page of the destination in runs_per_page contiguous runs.
struct Plan {
  int64_t src_offset;  // bytes from the base of the buffer to the window's first byte of page 0
  int64_t dst_offset;
  int64_t src_page_stride;
  int64_t dst_page_stride;
  int64_t src_num_pages;
  int64_t dst_num_pages;
  int64_t run_bytes;
  FastDiv runs_per_page;
  uint32_t num_axes;
  Axis axes[kMaxAxes];           // innermost first
  uint32_t axis_bits[kMaxAxes];  // AxisBit of each axis, for people
  uint32_t run_bits;             // AxisBit of what was merged into the run
  uint32_t
      align_bytes;  // largest power of two <= 128 that divides every offset, stride and the run
};

// Where run `run` of the page pair lies, in bytes from the bases of the two buffers.
HICACHE_HD void locate(const Plan& plan, int64_t src_page, int64_t dst_page, uint32_t run,
                       int64_t& src, int64_t& dst) {
  src = plan.src_offset + src_page * plan.src_page_stride;
  dst = plan.dst_offset + dst_page * plan.dst_page_stride;
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (uint32_t i = 0; i < kMaxAxes; ++i) {
    if (i >= plan.num_axes) break;
    const Axis& axis = plan.axes[i];
    const uint32_t outer = axis.extent.div(run);
    const int64_t coord = run - outer * axis.extent.divisor;
    src += coord * axis.src_stride;
    dst += coord * axis.dst_stride;
    run = outer;
  }
}

// How an executor cuts a copy into equal units: a page pair, a run of it, a segment of the run.
struct Tiling {
  int64_t segment_bytes;
  FastDiv segments_per_run;
};

// The bytes of one unit. `position` indexes the id lists.
struct Unit {
  uint32_t position;
  uint32_t run;
  int64_t begin;  // bytes into the run
  int64_t num_bytes;
};

HICACHE_HD Unit locate_unit(const Plan& plan, const Tiling& tiling, uint32_t unit) {
  const uint32_t flat_run = tiling.segments_per_run.div(unit);
  const uint32_t position = plan.runs_per_page.div(flat_run);
  const uint32_t segment = unit - flat_run * tiling.segments_per_run.divisor;
  const int64_t begin = segment * tiling.segment_bytes;
  const int64_t left = plan.run_bytes - begin;
  return {position, flat_run - position * plan.runs_per_page.divisor, begin,
          left < tiling.segment_bytes ? left : tiling.segment_bytes};
}

// Segments of at most `max_segment_bytes`; throws Error(kLayout) where a page needs 2^31 units.
Tiling make_tiling(const Plan& plan, int64_t max_segment_bytes);

// How many positions one pass over units may cover, so that unit numbers stay divisible.
inline int64_t max_positions(const Plan& plan, const Tiling& tiling) {
  return (kMaxUnits - 1) / (int64_t{plan.runs_per_page.divisor} * tiling.segments_per_run.divisor);
}

// One side of a copy, as the planner reads it: the LayoutSpec of hicache_ext.layout.
struct PageLayout {
  int64_t num_pages, page_size, num_layers, num_kv, num_heads, head_bytes, num_groups;
  int64_t stride_page, stride_layer, stride_kv, stride_group, stride_token, stride_head;
};

// Half-open ranges, in elements of the axis.
struct PageWindow {
  int64_t layer_begin, layer_end;
  int64_t kv_begin, kv_end;
  int64_t head_begin, head_end;
};

enum class Ascending { kSource, kDestination };  // whose addresses rise with the run number

// Throws Error(kLayout) where the two layouts or the window do not fit.
Plan make_plan(const PageLayout& src, const PageLayout& dst, const PageWindow& window,
               Ascending ascending);

}  // namespace hicache
