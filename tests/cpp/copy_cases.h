// Random copies of pages for the C++ and the CUDA test: layouts, windows, ids with holes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <random>
#include <string_view>
#include <vector>

#include "hicache/plan.h"

namespace hicache::testing {

inline std::mt19937 rng;

inline int64_t draw(int64_t first, int64_t last) {
  return std::uniform_int_distribution<int64_t>(first, last)(rng);
}

template <class T>
T pick(std::initializer_list<T> values) {
  return values.begin()[draw(0, static_cast<int64_t>(values.size()) - 1)];
}

// Every layout by its axes, outermost first, as [p]age, [l]ayer, [k]v, [t]oken, [g]roup and [h]ead:
// layer_first, page_first, page_first_direct, page_head, page_unified, K and V fused in each head,
// heads outside of the tokens, all layers of a token together; at last a table of planes [layer,
// kv].
inline constexpr const char* kOrders[] = {"klptgh", "kptlgh", "kpltgh", "kpghtl", "pglkth",
                                          "lptghk", "lpkght", "ptghlk", "ptgh"};
constexpr int kNumLayouts = std::size(kOrders);

// Written out independently of hicache_ext.layout.
inline PageLayout make_layout(int layout, int64_t num_pages, const PageLayout& like) {
  PageLayout out = like;
  out.num_pages = num_pages;
  out.planes = layout == kNumLayouts - 1 ? Planes::kTable : Planes::kOneBuffer;
  int64_t step = like.head_bytes;
  const auto place = [&](int64_t& stride, int64_t extent) {
    stride = step;
    step *= extent;
  };
  const std::string_view order = kOrders[layout];
  for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
    if (*axis == 'p') place(out.stride_page, num_pages);
    if (*axis == 'l') place(out.stride_layer, like.num_layers);
    if (*axis == 'k') place(out.stride_kv, like.num_kv);
    if (*axis == 't') place(out.stride_token, like.page_size);
    if (*axis == 'g') place(out.stride_group, like.num_groups);
    if (*axis == 'h') place(out.stride_head, like.num_heads / like.num_groups);
  }
  return out;
}

inline int64_t bytes_of(const PageLayout& side) {
  return side.num_pages * side.page_size * side.num_layers * side.num_kv * side.num_heads *
         side.head_bytes;
}

// The planes of a table that lies at `base`, the last one first; none where there is no table.
inline std::vector<uint64_t> planes_of(const PageLayout& side, const std::byte* base) {
  const int64_t num_planes = side.planes == Planes::kTable ? side.num_layers * side.num_kv : 0;
  std::vector<uint64_t> planes;
  for (int64_t left = num_planes; left > 0; --left)
    planes.push_back(reinterpret_cast<uint64_t>(base + (left - 1) * bytes_of(side) / num_planes));
  return planes;
}

// `planes` must outlive what is done with it.
inline const uint64_t* data_of(const std::vector<uint64_t>& planes) {
  return planes.empty() ? nullptr : planes.data();
}

struct Case {
  PageLayout src, dst;
  PageWindow window;
  std::vector<int64_t> src_ids, dst_ids;
};

// Pages of the layouts number `pair` of all kNumLayouts^2 pairs.
inline Case draw_case(int pair) {
  PageLayout like{};
  like.page_size = pick<int64_t>({1, 3, 16});
  like.num_layers = draw(1, 3);
  like.num_kv = draw(1, 2);
  like.num_heads = pick<int64_t>({1, 2, 4});
  like.head_bytes = pick<int64_t>({1, 12, 33, 64, 144, 4096});
  if (like.head_bytes == 4096) like.num_heads = like.num_layers = 1;
  const int64_t most_groups = like.num_heads > 1 ? 2 : 1;
  Case drawn;
  like.num_groups = draw(1, most_groups);
  drawn.src = make_layout(pair / kNumLayouts % kNumLayouts, draw(1, 5), like);
  like.num_groups = draw(1, most_groups);
  drawn.dst = make_layout(pair % kNumLayouts, draw(1, 5), like);
  const auto span = [](int64_t extent, int64_t& begin, int64_t& end) {
    begin = draw(0, extent - 1);
    end = draw(begin + 1, extent);
  };
  PageWindow& window = drawn.window;
  span(like.num_layers, window.layer_begin, window.layer_end);
  span(like.num_kv, window.kv_begin, window.kv_end);
  span(like.page_size, window.token_begin, window.token_end);
  span(most_groups, window.head_begin, window.head_end);  // of two groups, which it cuts not
  window.head_begin *= like.num_heads / most_groups;
  window.head_end *= like.num_heads / most_groups;
  for (int64_t page = 0; page < drawn.dst.num_pages; ++page) {
    drawn.dst_ids.push_back(draw(0, 5) == 0 ? -1 : page);
    drawn.src_ids.push_back(draw(0, 5) == 0 ? -2 : draw(0, drawn.src.num_pages - 1));
  }
  std::shuffle(drawn.dst_ids.begin(), drawn.dst_ids.end(), rng);
  return drawn;
}

}  // namespace hicache::testing
