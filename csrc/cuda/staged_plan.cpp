// See staged_plan.h.
#include "staged_plan.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

namespace hicache {
namespace {

constexpr int64_t kPackedAlign = 16;  // of packed pages, so that the kernel moves whole words

Plan mirrored(Plan plan) {
  std::swap(plan.src_offset, plan.dst_offset);
  std::swap(plan.src_page_stride, plan.dst_page_stride);
  std::swap(plan.src_num_pages, plan.dst_num_pages);
  std::swap(plan.src_plane, plan.dst_plane);
  for (Axis& axis : plan.axes) {
    std::swap(axis.src_stride, axis.dst_stride);
    std::swap(axis.src_planes, axis.dst_planes);
  }
  return plan;
}

// Innermost first by the place on the source side; what a plane table tells apart lies outside.
void sort_by_source(Plan& plan) {
  uint32_t order[kMaxAxes];
  std::iota(order, order + plan.num_axes, 0);
  std::stable_sort(order, order + plan.num_axes, [&](uint32_t a, uint32_t b) {
    const Axis &left = plan.axes[a], &right = plan.axes[b];
    return std::tie(left.src_planes, left.src_stride) <
           std::tie(right.src_planes, right.src_stride);
  });
  const Plan before = plan;
  for (uint32_t i = 0; i < plan.num_axes; ++i) {
    plan.axes[i] = before.axes[order[i]];
    plan.axis_bits[i] = before.axis_bits[order[i]];
  }
}

// Puts dense pages, in the order of the axes, in the place of the destination.
void pack_destination(Plan& plan, int64_t page_stride) {
  plan.dst_offset = 0;
  plan.dst_plane = 0;
  plan.dst_page_stride = page_stride;
  int64_t stride = plan.run_bytes;
  for (uint32_t i = 0; i < plan.num_axes; ++i) {
    plan.axes[i].dst_stride = stride;
    plan.axes[i].dst_planes = 0;
    stride *= plan.axes[i].extent;
  }
}

// The axes along which the source goes on without a gap become part of the run.
void merge_into_run(Plan& plan) {
  uint32_t num_merged = 0;
  for (; num_merged < plan.num_axes; ++num_merged) {
    const Axis& axis = plan.axes[num_merged];
    if (axis.src_stride != plan.run_bytes) break;  // 0 where a plane table tells steps apart
    plan.run_bytes *= axis.extent;
    plan.runs_per_page /= axis.extent;
    plan.run_bits |= plan.axis_bits[num_merged];
  }
  plan.num_axes -= num_merged;
  std::move(plan.axes + num_merged, plan.axes + kMaxAxes, plan.axes);
  std::move(plan.axis_bits + num_merged, plan.axis_bits + kMaxAxes, plan.axis_bits);
}

}  // namespace

int64_t packed_stride(const Plan& plan) {
  return (page_bytes(plan) + kPackedAlign - 1) / kPackedAlign * kPackedAlign;
}

StagedPlan stage_plan(const Plan& plan, CopySide host) {
  const bool is_mirrored = host == CopySide::kDestination;
  Plan from_host = is_mirrored ? mirrored(plan) : plan;
  sort_by_source(from_host);
  const int64_t page_stride = packed_stride(plan);

  Plan dma = from_host;
  pack_destination(dma, page_stride);
  Plan kernel = mirrored(from_host);  // device -> host
  pack_destination(kernel, page_stride);
  merge_into_run(dma);
  return is_mirrored ? StagedPlan{kernel, mirrored(dma)} : StagedPlan{mirrored(kernel), dma};
}

}  // namespace hicache
