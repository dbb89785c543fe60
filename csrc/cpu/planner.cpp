// From two layouts and a window to a Plan: drop, merge, order.
#include <algorithm>
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
};

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

void merge_into_run(std::vector<WideAxis>& axes, int64_t& run_bytes, uint32_t& run_bits) {
  for (size_t i = 0; i < axes.size();) {
    if (axes[i].src_stride == run_bytes && axes[i].dst_stride == run_bytes) {
      run_bytes *= axes[i].extent;
      run_bits |= axes[i].bits;
      axes.erase(axes.begin() + static_cast<std::ptrdiff_t>(i));
      i = 0;
    } else {
      ++i;
    }
  }
}

// `axes` are innermost first; two neighbours that continue each other on both sides become one.
void merge_neighbours(std::vector<WideAxis>& axes) {
  for (size_t i = 0; i + 1 < axes.size();) {
    WideAxis& inner = axes[i];
    const WideAxis& outer = axes[i + 1];
    if (outer.src_stride == inner.extent * inner.src_stride &&
        outer.dst_stride == inner.extent * inner.dst_stride) {
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

void require_same_pages(const PageLayout& src, const PageLayout& dst, const PageWindow& window) {
  require_equal("page_size", src.page_size, dst.page_size);
  require_equal("num_layers", src.num_layers, dst.num_layers);
  require_equal("num_kv", src.num_kv, dst.num_kv);
  require_equal("num_heads", src.num_heads, dst.num_heads);
  require_equal("head_bytes", src.head_bytes, dst.head_bytes);
  require_range("layer", window.layer_begin, window.layer_end, src.num_layers);
  require_range("kv", window.kv_begin, window.kv_end, src.num_kv);
  require_range("head", window.head_begin, window.head_end, src.num_heads);
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

Tiling make_tiling(const Plan& plan, int64_t max_segment_bytes) {
  const int64_t segment_bytes = std::min(plan.run_bytes, max_segment_bytes);
  const int64_t segments = (plan.run_bytes + segment_bytes - 1) / segment_bytes;
  HICACHE_CHECK(kLayout, segments < kMaxUnits / plan.runs_per_page.divisor,
                "a page is too large for one copy: run_bytes=", plan.run_bytes,
                " runs_per_page=", plan.runs_per_page.divisor);
  return {segment_bytes, FastDiv::make(static_cast<uint32_t>(segments))};
}

Plan make_plan(const PageLayout& src, const PageLayout& dst, const PageWindow& window,
               Ascending ascending) {
  require_same_pages(src, dst, window);
  Plan plan{};
  plan.src_offset = window.layer_begin * src.stride_layer + window.kv_begin * src.stride_kv;
  plan.dst_offset = window.layer_begin * dst.stride_layer + window.kv_begin * dst.stride_kv;
  std::vector<WideAxis> axes = {
      {window.layer_end - window.layer_begin, src.stride_layer, dst.stride_layer, kAxisLayer},
      {window.kv_end - window.kv_begin, src.stride_kv, dst.stride_kv, kAxisKv},
      {src.page_size, src.stride_token, dst.stride_token, kAxisToken}};
  add_head_axes(src, dst, window, axes, plan.src_offset, plan.dst_offset);
  std::erase_if(axes, [](const WideAxis& axis) { return axis.extent == 1; });

  plan.run_bytes = src.head_bytes;
  merge_into_run(axes, plan.run_bytes, plan.run_bits);
  std::stable_sort(axes.begin(), axes.end(), [&](const WideAxis& a, const WideAxis& b) {
    return ascending == Ascending::kSource ? a.src_stride < b.src_stride
                                           : a.dst_stride < b.dst_stride;
  });
  merge_neighbours(axes);

  int64_t runs = 1;
  for (const WideAxis& axis : axes) {
    HICACHE_CHECK(kLayout, axis.extent < kMaxUnits / runs, "more than 2^31 runs in a page");
    runs *= axis.extent;
    plan.axis_bits[plan.num_axes] = axis.bits;
    plan.axes[plan.num_axes++] = {FastDiv::make(static_cast<uint32_t>(axis.extent)),
                                  axis.src_stride, axis.dst_stride};
  }
  plan.runs_per_page = FastDiv::make(static_cast<uint32_t>(runs));
  plan.src_page_stride = src.stride_page;
  plan.dst_page_stride = dst.stride_page;
  plan.src_num_pages = src.num_pages;
  plan.dst_num_pages = dst.num_pages;
  plan.align_bytes = common_alignment(plan);
  return plan;
}

}  // namespace hicache
