// Moving pages: the PODs that every executor takes, and the executors on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "hicache/isa.h"
#include "hicache/plan.h"

namespace hicache {

enum class IdWidth : int32_t { kInt32 = 4, kInt64 = 8 };
enum class IdPlace : int32_t { kHost, kDevice };

struct PageIds {
  const void* data;  // int32 or int64 [num_positions]; a negative id is a hole
  IdWidth width;
  IdPlace place;

  HICACHE_HD int64_t at(int64_t position) const {
    return width == IdWidth::kInt32 ? global(static_cast<const int32_t*>(data))[position]
                                    : global(static_cast<const int64_t*>(data))[position];
  }
};

// One plan between two buffers with two lists of page ids.
struct CopyParams {
  Plan plan;
  const std::byte* src;        // base of the source buffer
  std::byte* dst;              // base of the destination buffer
  const uint64_t* src_planes;  // addresses [layer, kv] where each has its own, else nullptr; in
  const uint64_t* dst_planes;  // memory that the executor can read
  PageIds src_ids;
  PageIds dst_ids;
  int64_t num_positions;
};

constexpr uint32_t kMaxParts = 8;

// What every executor takes: the parts of one copy, as full attention, its sliding window and the
// sidecars. Their destinations share no byte, and no destination is a source.
struct CopySet {
  CopyParams parts[kMaxParts];
  uint32_t num_parts;
};
static_assert(sizeof(CopySet) < 4096 - 512, "must fit into the parameters of a kernel");

struct RunAddress {
  const std::byte* src;
  std::byte* dst;
};

// Run `run` of a page pair, as addresses.
HICACHE_HD RunAddress locate_run(const CopyParams& params, int64_t src_page, int64_t dst_page,
                                 uint32_t run) {
  Place src, dst;
  locate(params.plan, src_page, dst_page, run, src, dst);
  const auto* src_base =
      params.src_planes == nullptr
          ? params.src
          : reinterpret_cast<const std::byte*>(global(params.src_planes)[src.plane]);
  auto* dst_base = params.dst_planes == nullptr
                       ? params.dst
                       : reinterpret_cast<std::byte*>(global(params.dst_planes)[dst.plane]);
  return {src_base + src.offset, dst_base + dst.offset};
}

// Equal runs in even steps: one run and those that follow it on the innermost axis.
struct Strip {
  const std::byte* src;
  std::byte* dst;
  int64_t src_step;  // bytes from one run to the next
  int64_t dst_step;
  int64_t run_bytes;
  uint32_t num_runs;
};

// The strip that begins with run `run` of a page pair: stepping along it saves to locate each run.
HICACHE_HD Strip locate_strip(const CopyParams& params, int64_t src_page, int64_t dst_page,
                              uint32_t run) {
  const RunAddress first = locate_run(params, src_page, dst_page, run);
  Strip strip{first.src, first.dst, 0, 0, params.plan.run_bytes, 1};
  const Axis& inner = params.plan.axes[0];
  if (params.plan.num_axes == 0 || inner.src_planes != 0 || inner.dst_planes != 0) return strip;
  strip.src_step = inner.src_stride;
  strip.dst_step = inner.dst_stride;
  strip.num_runs = inner.div.divisor - (run - inner.div.div(run) * inner.div.divisor);
  return strip;
}

// A position of a set, counted through all its parts.
struct Position {
  uint32_t part;
  int64_t position;  // in the id lists of the part
};

Position position_of(const CopySet& set, int64_t flat_position);

// "part=1 position=7", without the part where there is only one.
std::string position_text(const CopySet& set, const Position& at);

// Ids in host memory: range on both sides, and no destination page twice in a part; ids on the
// device are not looked at. Throws Error(kPageIndex) that names part, side, position and value.
// Returns the bytes to move: those of all positions that are no holes.
int64_t check_page_ids(const CopySet& set);

// Throws Error(kLayout) where ids lie on the device: for executors that read them on the CPU.
void require_host_ids(const CopySet& set);

// The reference: memcpy of one run after the other.
void copy_cpu_ref(const CopySet& set);

// Threads and wide stores: with kAuto the widest of the machine, non-temporal where the copy is too
// large to stay in a cache; with another isa always its own. Returns after the last byte. The ids
// must have passed check_page_ids(). Throws Error(kLayout) where the machine has not the isa.
void copy_cpu(const CopySet& set, int num_threads, Isa isa);

}  // namespace hicache
