// From two layouts and a window to a Plan: drop, merge, order.
#include <algorithm>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

#include "hicache/check.h"
#include "hicache/plan.h"

namespace hicache {
namespace {

struct WideAxis {
  int64_t extent;
  int64_t src_stride;
  int64_t dst_stride;
  uint32_t bits;
  int32_t src_planes = 0;
  int32_t dst_planes = 0;

  bool continues(const WideAxis& inner) const {
    return src_stride == inner.extent * inner.src_stride &&
           dst_stride == inner.extent * inner.dst_stride &&
           src_planes == inner.extent * inner.src_planes &&
           dst_planes == inner.extent * inner.dst_planes;
  }
};

// Layers and K/V are told apart by their plane where there is a table, else by a stride.
struct PlaneSteps {
  int64_t stride;
  int32_t planes;
};

PlaneSteps layer_steps(const PageLayout& side) {
  return side.planes == Planes::kTable ? PlaneSteps{0, static_cast<int32_t>(side.num_kv)}
                                       : PlaneSteps{side.stride_layer, 0};
}

PlaneSteps kv_steps(const PageLayout& side) {
  return side.planes == Planes::kTable ? PlaneSteps{0, 1} : PlaneSteps{side.stride_kv, 0};
}

void require_equal(const char* what, int64_t src, int64_t dst) {
  HICACHE_CHECK(kLayout, src == dst, "source and destination differ: src.", what, "=", src, " dst.",
                what, "=", dst);
}

void require_range(const char* what, int64_t begin, int64_t end, int64_t extent) {
  HICACHE_CHECK(kLayout, 0 <= begin && begin < end && end <= extent, what, " window [", begin, ", ",
                end, ") does not lie in [0, ", extent, ")");
}

// Groups whose heads follow on at the same stride are no groups at all for addressing.
int64_t effective_groups(const PageLayout& side) {
  const int64_t heads_per_group = side.num_heads / side.num_groups;
  return side.stride_group == heads_per_group * side.stride_head ? 1 : side.num_groups;
}

// The stride of `step` heads on a side with `groups` effective groups; `step` is either a multiple
// of the heads of a group or stays inside one.
int64_t head_stride(const PageLayout& side, int64_t groups, int64_t step) {
  const int64_t heads_per_group = side.num_heads / groups;
  if (groups > 1 && step % heads_per_group == 0) return step / heads_per_group * side.stride_group;
  return step * side.stride_head;
}

// The head range as up to three axes (coarse group, fine group, head in it), outermost first. A
// range that is not a box in that mixed radix would need two copies: refused.
void add_head_axes(const PageLayout& src, const PageLayout& dst, const PageWindow& window,
                   std::vector<WideAxis>& axes, int64_t& src_offset, int64_t& dst_offset) {
  const int64_t src_groups = effective_groups(src), dst_groups = effective_groups(dst);
  const int64_t coarse = std::min(src_groups, dst_groups), fine = std::max(src_groups, dst_groups);
  HICACHE_CHECK(kLayout, fine % coarse == 0, "head groups do not nest: src.num_groups=", src_groups,
                " dst.num_groups=", dst_groups);
  const int64_t steps[3] = {src.num_heads / coarse, src.num_heads / fine, 1};
  const uint32_t bits[3] = {kAxisGroup, kAxisFineGroup, kAxisHead};
  int64_t begin = window.head_begin, end = window.head_end;
  for (int level = 0; level < 3; ++level) {
    const int64_t step = steps[level];
    const int64_t first = begin / step, last = (end - 1) / step;
    const int64_t src_stride = head_stride(src, src_groups, step);
    const int64_t dst_stride = head_stride(dst, dst_groups, step);
    HICACHE_CHECK(kLayout, first == last || (begin % step == 0 && end % step == 0), "head window [",
                  window.head_begin, ", ", window.head_end, ") cuts a group of ", step, " heads");
    src_offset += first * src_stride;
    dst_offset += first * dst_stride;
    axes.push_back({last - first + 1, src_stride, dst_stride, bits[level]});
    begin = first == last ? begin - first * step : 0;
    end = first == last ? end - first * step : step;
  }
}

void add_plane_axis(int64_t begin, int64_t end, const PlaneSteps& src, const PlaneSteps& dst,
                    uint32_t bit, std::vector<WideAxis>& axes, Plan& plan) {
  plan.src_offset += begin * src.stride;
  plan.dst_offset += begin * dst.stride;
  plan.src_plane += static_cast<int32_t>(begin) * src.planes;
  plan.dst_plane += static_cast<int32_t>(begin) * dst.planes;
  axes.push_back({end - begin, src.stride, dst.stride, bit, src.planes, dst.planes});
}

// Of kLayers a layer is never part of something else.
bool may_merge(const WideAxis& axis, RunOrder order) {
  return order == RunOrder::kPages || axis.bits != kAxisLayer;
}

void merge_into_run(std::vector<WideAxis>& axes, Plan& plan) {
  int64_t& run_bytes = plan.run_bytes;
  for (size_t i = 0; i < axes.size();) {
    const bool stays_in_plane = axes[i].src_planes == 0 && axes[i].dst_planes == 0;
    if (may_merge(axes[i], plan.order) && stays_in_plane && axes[i].src_stride == run_bytes &&
        axes[i].dst_stride == run_bytes) {
      run_bytes *= axes[i].extent;
      plan.run_bits |= axes[i].bits;
      axes.erase(axes.begin() + static_cast<std::ptrdiff_t>(i));
      i = 0;
    } else {
      ++i;
    }
  }
}

// `axes` are innermost first; two neighbours that continue each other on both sides become one.
void merge_neighbours(std::vector<WideAxis>& axes, RunOrder order) {
  for (size_t i = 0; i + 1 < axes.size();) {
    WideAxis& inner = axes[i];
    const WideAxis& outer = axes[i + 1];
    if (may_merge(outer, order) && outer.continues(inner)) {
      inner.extent *= outer.extent;
      inner.bits |= outer.bits;
      axes.erase(axes.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    } else {
      ++i;
    }
  }
}

uint32_t common_alignment(const Plan& plan) {
  uint64_t all = static_cast<uint64_t>(plan.src_offset | plan.dst_offset | plan.src_page_stride |
                                       plan.dst_page_stride | plan.run_bytes | 128);
  for (uint32_t i = 0; i < plan.num_axes; ++i)
    all |= static_cast<uint64_t>(plan.axes[i].src_stride | plan.axes[i].dst_stride);
  return static_cast<uint32_t>(all & (~all + 1));
}

void require_few(const std::vector<WideAxis>& axes) {
  std::ostringstream shown;
  for (const WideAxis& axis : axes)
    shown << " [" << axis.extent << " steps of " << axis.src_stride << " -> " << axis.dst_stride
          << "]";
  HICACHE_CHECK(kLayout, axes.size() <= kMaxAxes, axes.size(), " axes are left around the run of ",
                "which a plan has at most ", kMaxAxes, ", innermost first:", shown.str());
}

// An axis too long for the magic has more steps than any run number below 2^31 reaches.
void set_extent(Axis& axis, int64_t extent) {
  axis.extent = extent;
  axis.div = extent < kMaxUnits ? FastDiv::make(static_cast<uint32_t>(extent)) : FastDiv{};
}

void count_runs(Plan& plan) {
  plan.runs_per_page = 1;
  for (uint32_t i = 0; i < plan.num_axes; ++i) plan.runs_per_page *= plan.axes[i].extent;
}

void require_same_pages(const PageLayout& src, const PageLayout& dst, const PageWindow& window) {
  require_equal("page_size", src.page_size, dst.page_size);
  require_equal("num_layers", src.num_layers, dst.num_layers);
  require_equal("num_kv", src.num_kv, dst.num_kv);
  require_equal("num_heads", src.num_heads, dst.num_heads);
  require_equal("head_bytes", src.head_bytes, dst.head_bytes);
  require_range("layer", window.layer_begin, window.layer_end, src.num_layers);
  require_range("kv", window.kv_begin, window.kv_end, src.num_kv);
  require_range("head", window.head_begin, window.head_end, src.num_heads);
  require_range("token", window.token_begin, window.token_end, src.page_size);
}

}  // namespace

FastDiv FastDiv::make(uint32_t divisor) {
  HICACHE_CHECK(kLayout, divisor >= 1 && divisor < kMaxUnits, "divisor=", divisor);
  uint32_t log2 = 0;
  while ((uint64_t{1} << log2) < divisor) ++log2;
  // ceil-like magic: its error n/2^31/divisor stays below 1/divisor for every n < 2^31.
  const uint64_t magic = (uint64_t{1} << (31 + log2)) / divisor + 1;
  return {divisor, static_cast<uint32_t>(magic), 31 + log2};
}

Slices::Slices(const Plan& plan, int64_t max_runs) : plan_(plan) {
  int64_t inside = 1;
  while (cut_ < plan.num_axes && plan.axes[cut_].extent <= max_runs / inside)
    inside *= plan.axes[cut_++].extent;
  if (cut_ == plan.num_axes) return;
  steps_ = max_runs / inside;
  chunks_ = (plan.axes[cut_].extent + steps_ - 1) / steps_;
  size_ = chunks_;
  for (uint32_t i = cut_ + 1; i < plan.num_axes; ++i) size_ *= plan.axes[i].extent;
}

Plan Slices::at(int64_t slice) const {
  if (size_ == 1) return plan_;
  Plan box = plan_;
  const auto begin_at = [&](const Axis& axis, int64_t coord) {
    box.src_offset += coord * axis.src_stride;
    box.dst_offset += coord * axis.dst_stride;
    box.src_plane += static_cast<int32_t>(coord) * axis.src_planes;
    box.dst_plane += static_cast<int32_t>(coord) * axis.dst_planes;
  };
  const int64_t first = slice % chunks_ * steps_;
  begin_at(plan_.axes[cut_], first);
  int64_t outer = slice / chunks_;
  for (uint32_t i = cut_ + 1; i < plan_.num_axes; ++i) {
    begin_at(plan_.axes[i], outer % plan_.axes[i].extent);
    outer /= plan_.axes[i].extent;
  }
  box.num_axes = cut_ + 1;
  set_extent(box.axes[cut_], std::min(steps_, plan_.axes[cut_].extent - first));
  count_runs(box);
  return box;
}

Plan make_plan(const PageLayout& src, const PageLayout& dst, const PageWindow& window,
               Ascending ascending, RunOrder order) {
  require_same_pages(src, dst, window);
  Plan plan{};
  plan.order = order;
  std::vector<WideAxis> axes;
  add_plane_axis(window.layer_begin, window.layer_end, layer_steps(src), layer_steps(dst),
                 kAxisLayer, axes, plan);
  add_plane_axis(window.kv_begin, window.kv_end, kv_steps(src), kv_steps(dst), kAxisKv, axes, plan);
  plan.src_offset += window.token_begin * src.stride_token;
  plan.dst_offset += window.token_begin * dst.stride_token;
  axes.push_back(
      {window.token_end - window.token_begin, src.stride_token, dst.stride_token, kAxisToken});
  add_head_axes(src, dst, window, axes, plan.src_offset, plan.dst_offset);
  std::erase_if(axes, [](const WideAxis& axis) { return axis.extent == 1; });

  plan.run_bytes = src.head_bytes;
  merge_into_run(axes, plan);
  const auto step = [&](const WideAxis& axis) {  // planes lie apart from each other: outermost
    const bool is_last = !may_merge(axis, order);
    return ascending == Ascending::kSource ? std::tuple(is_last, axis.src_planes, axis.src_stride)
                                           : std::tuple(is_last, axis.dst_planes, axis.dst_stride);
  };
  std::stable_sort(axes.begin(), axes.end(),
                   [&](const WideAxis& a, const WideAxis& b) { return step(a) < step(b); });
  merge_neighbours(axes, order);

  require_few(axes);
  for (const WideAxis& axis : axes) {
    plan.axis_bits[plan.num_axes] = axis.bits;
    Axis& out = plan.axes[plan.num_axes++];
    out = {0, axis.src_stride, axis.dst_stride, axis.src_planes, axis.dst_planes, {}};
    set_extent(out, axis.extent);
  }
  count_runs(plan);
  plan.src_page_stride = src.stride_page;
  plan.dst_page_stride = dst.stride_page;
  plan.src_num_pages = src.num_pages;
  plan.dst_num_pages = dst.num_pages;
  plan.align_bytes = common_alignment(plan);
  return plan;
}

}  // namespace hicache
