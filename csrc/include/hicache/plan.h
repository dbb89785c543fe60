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

// kLayers: all pages of the first layer, then all of the second, so that layer 0 is there first.
enum class RunOrder : uint32_t { kPages, kLayers };

constexpr int kMaxAxes = 5;  // all named layouts stay below it, whatever their head groups
constexpr int64_t kMaxUnits = int64_t{1} << 31;  // exclusive; what FastDiv can divide

struct Axis {
  int64_t extent;      // steps
  int64_t src_stride;  // bytes
  int64_t dst_stride;  // bytes
  int32_t src_planes;  // entries of the plane table that one step passes; 0 without a table
  int32_t dst_planes;
  FastDiv div;  // by the extent
};

// One page of the source becomes one page of the destination in runs_per_page contiguous runs.
// Offsets and strides of a side with a plane table count inside a plane [layer, kv].
struct Plan {
  int64_t src_offset;  // bytes from the base (or plane) to the window's first byte of page 0
  int64_t dst_offset;
  int64_t src_page_stride;
  int64_t dst_page_stride;
  int64_t src_num_pages;
  int64_t dst_num_pages;
  int64_t run_bytes;
  int64_t runs_per_page;  // locate() takes run numbers below 2^31: see Slices
  int32_t src_plane;      // of the window's first byte
  int32_t dst_plane;
  uint32_t num_axes;
  Axis axes[kMaxAxes];           // innermost first
  uint32_t axis_bits[kMaxAxes];  // AxisBit of each axis, for people
  uint32_t run_bits;             // AxisBit of what was merged into the run
  RunOrder order;                // kLayers: the outermost axis is the layers, if there are several
  uint32_t
      align_bytes;  // largest power of two <= 128 that divides every offset, stride and the run
};

// Into how many steps kLayers divides the copy; Slices of runs_per_page / num_steps runs are those
// of a page.
inline int64_t num_steps(const Plan& plan) {
  const bool in_layers = plan.order == RunOrder::kLayers && plan.num_axes > 0 &&
                         plan.axis_bits[plan.num_axes - 1] == kAxisLayer;
  return in_layers ? plan.axes[plan.num_axes - 1].extent : 1;
}

HICACHE_HD int64_t page_bytes(const Plan& plan) { return plan.run_bytes * plan.runs_per_page; }

// Where a byte of one side lies: an entry of the plane table, and bytes from its address; plane 0
// is the buffer itself where there is no table.
struct Place {
  int32_t plane;
  int64_t offset;
};

// Where run `run` of the page pair begins on both sides.
HICACHE_HD void locate(const Plan& plan, int64_t src_page, int64_t dst_page, uint32_t run,
                       Place& src, Place& dst) {
  src = {plan.src_plane, plan.src_offset + src_page * plan.src_page_stride};
  dst = {plan.dst_plane, plan.dst_offset + dst_page * plan.dst_page_stride};
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (uint32_t i = 0; i < kMaxAxes; ++i) {
    if (i >= plan.num_axes) break;
    const Axis& axis = plan.axes[i];
    const uint32_t outer = axis.div.div(run);
    const auto coord = static_cast<int32_t>(run - outer * axis.div.divisor);
    src.offset += coord * axis.src_stride;
    dst.offset += coord * axis.dst_stride;
    src.plane += coord * axis.src_planes;
    dst.plane += coord * axis.dst_planes;
    run = outer;
  }
}

// A page of more runs than locate() can number, as boxes of at most max_runs: plans of their own,
// whose runs follow on from one to the next. Usually there is one, and it is the plan.
class Slices {
 public:
  Slices(const Plan& plan, int64_t max_runs);
  int64_t size() const { return size_; }
  Plan at(int64_t slice) const;

 private:
  const Plan& plan_;
  uint32_t cut_ = 0;    // the axis that is cut; the axes inside of it stay whole
  int64_t steps_ = 1;   // of the cut axis in a slice
  int64_t chunks_ = 1;  // of the cut axis
  int64_t size_ = 1;
};

enum class Planes { kOneBuffer, kTable };  // kTable: every [layer, kv] has an address of its own

// One side of a copy, as the planner reads it: the LayoutSpec of hicache_ext.layout.
struct PageLayout {
  Planes planes;
  int64_t num_pages, page_size, num_layers, num_kv, num_heads, head_bytes, num_groups;
  int64_t stride_page, stride_layer, stride_kv, stride_group, stride_token, stride_head;
};

// Half-open ranges, in elements of the axis.
struct PageWindow {
  int64_t layer_begin, layer_end;
  int64_t kv_begin, kv_end;
  int64_t head_begin, head_end;
  int64_t token_begin, token_end;
};

enum class Ascending { kSource, kDestination };  // whose addresses rise with the run number

// Throws Error(kLayout) where the two layouts or the window do not fit.
Plan make_plan(const PageLayout& src, const PageLayout& dst, const PageWindow& window,
               Ascending ascending, RunOrder order = RunOrder::kPages);

}  // namespace hicache
