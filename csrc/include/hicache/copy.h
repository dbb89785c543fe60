// Moving pages: the one POD that every executor takes, and the executors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hicache/plan.h"

namespace hicache {

enum class IdWidth : int32_t { kInt32 = 4, kInt64 = 8 };

struct PageIds {
  const void* data;  // int32 or int64 [num_positions]; a negative id is a hole
  IdWidth width;

  HICACHE_HD int64_t at(int64_t position) const {
    return width == IdWidth::kInt32 ? static_cast<const int32_t*>(data)[position]
                                    : static_cast<const int64_t*>(data)[position];
  }
};

struct CopyParams {
  Plan plan;
  const std::byte* src;  // base of the source buffer
  std::byte* dst;        // base of the destination buffer
  PageIds src_ids;
  PageIds dst_ids;
  int64_t num_positions;
};

// The positions [begin, begin + num_positions) of a copy.
inline CopyParams positions_of(const CopyParams& params, int64_t begin, int64_t num_positions) {
  const auto skip = [begin](const PageIds& ids) {
    const auto* data = static_cast<const std::byte*>(ids.data);
    return PageIds{data + begin * static_cast<int64_t>(ids.width), ids.width};
  };
  CopyParams part = params;
  part.src_ids = skip(params.src_ids);
  part.dst_ids = skip(params.dst_ids);
  part.num_positions = num_positions;
  return part;
}

// Ids in host memory: range on both sides, and no destination page twice. Throws Error(kPageIndex)
// that names side, position and value. Returns the number of positions that are no holes.
int64_t check_page_ids(const CopyParams& params);

// The reference: memcpy of one run after the other.
void copy_cpu_ref(const CopyParams& params);

enum class Isa { kAuto, kPortable, kAvx2 };

// Whether this machine runs `isa`.
bool has_isa(Isa isa);

// Threads and wide stores; non-temporal ones where the copy is too large to stay in a cache.
// Returns after the last byte. The ids must have passed check_page_ids().
void copy_cpu(const CopyParams& params, int num_threads, Isa isa);

}  // namespace hicache
