// Random copies of pages for the C++ and the CUDA test: layouts, windows, ids with holes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <random>
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

// layer_first, page_first or page_unified, written out independently of hicache_ext.layout.
inline PageLayout make_layout(int order, int64_t num_pages, const PageLayout& like) {
  PageLayout out = like;
  out.num_pages = num_pages;
  const int64_t heads = like.num_heads / out.num_groups, h = like.head_bytes;
  const int64_t row = like.num_heads * h, token = like.page_size, layers = like.num_layers;
  out.stride_head = h;
  out.stride_group = heads * h;
  out.stride_token = row;
  if (order == 0) {
    out.stride_page = token * row;
    out.stride_layer = num_pages * out.stride_page;
    out.stride_kv = layers * out.stride_layer;
  } else if (order == 1) {
    out.stride_layer = row;
    out.stride_token = layers * row;
    out.stride_page = token * out.stride_token;
    out.stride_kv = num_pages * out.stride_page;
  } else {
    out.stride_token = heads * h;
    out.stride_kv = token * out.stride_token;
    out.stride_layer = like.num_kv * out.stride_kv;
    out.stride_group = layers * out.stride_layer;
    out.stride_page = out.num_groups * out.stride_group;
  }
  return out;
}

inline int64_t bytes_of(const PageLayout& side) {
  return side.num_pages * side.page_size * side.num_layers * side.num_kv * side.num_heads *
         side.head_bytes;
}

struct Case {
  PageLayout src, dst;
  PageWindow window;
  std::vector<int64_t> src_ids, dst_ids;
};

inline Case draw_case() {
  PageLayout like{};
  like.page_size = pick<int64_t>({1, 3, 16});
  like.num_layers = draw(1, 3);
  like.num_kv = draw(1, 2);
  like.num_heads = pick<int64_t>({1, 2, 4});
  like.head_bytes = pick<int64_t>({1, 12, 33, 64, 144, 4096});
  if (like.head_bytes == 4096) like.num_heads = like.num_layers = 1;
  like.num_groups = 1;
  Case drawn;
  drawn.src = make_layout(static_cast<int>(draw(0, 2)), draw(1, 5), like);
  if (like.num_heads % 2 == 0) like.num_groups = draw(1, 2);
  drawn.dst = make_layout(static_cast<int>(draw(0, 2)), draw(1, 5), like);
  drawn.window = {draw(0, like.num_layers - 1),
                  like.num_layers,
                  draw(0, like.num_kv - 1),
                  like.num_kv,
                  0,
                  like.num_heads,
                  draw(0, like.page_size - 1),
                  like.page_size};
  for (int64_t page = 0; page < drawn.dst.num_pages; ++page) {
    drawn.dst_ids.push_back(draw(0, 5) == 0 ? -1 : page);
    drawn.src_ids.push_back(draw(0, 5) == 0 ? -2 : draw(0, drawn.src.num_pages - 1));
  }
  std::shuffle(drawn.dst_ids.begin(), drawn.dst_ids.end(), rng);
  return drawn;
}

}  // namespace hicache::testing
