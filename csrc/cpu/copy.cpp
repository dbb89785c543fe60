// Copies of pages on the CPU: the reference, and threads with wide stores.
#include "hicache/copy.h"

#include <cstring>
#include <vector>

#include "hicache/check.h"
#include "hicache/thread_pool.h"
#include "wide_copy.h"

namespace hicache {
namespace {

constexpr int64_t kTaskBytes = int64_t{1} << 20;
// Below it the destination is likely read soon and fits in a cache; streamed stores would evict it.
constexpr int64_t kStreamingBytes = int64_t{8} << 20;
constexpr uint32_t kLookahead = 8;
constexpr int64_t kPrefetchBytes = 512;

void check_side(const char* side, const PageIds& ids, int64_t position, int64_t num_pages) {
  const int64_t id = ids.at(position);
  HICACHE_CHECK(kPageIndex, id < num_pages, side, " page id out of range: position=", position,
                " value=", id, " num_pages=", num_pages);
}

struct Move {
  const std::byte* src;
  std::byte* dst;
  int64_t num_bytes;  // 0: a hole
};

Move move_of(const CopyParams& params, const Tiling& tiling, uint32_t unit_idx) {
  const Unit unit = locate_unit(params.plan, tiling, unit_idx);
  const int64_t src_page = params.src_ids.at(unit.position);
  const int64_t dst_page = params.dst_ids.at(unit.position);
  if (src_page < 0 || dst_page < 0) return {nullptr, nullptr, 0};
  int64_t src, dst;
  locate(params.plan, src_page, dst_page, unit.run, src, dst);
  return {params.src + src + unit.begin, params.dst + dst + unit.begin, unit.num_bytes};
}

// The hardware follows a run once it runs; its first lines are ours to fetch.
void prefetch(const Move& move) {
  const int64_t num_bytes = std::min(move.num_bytes, kPrefetchBytes);
  for (int64_t at = 0; at < num_bytes; at += 64) __builtin_prefetch(move.src + at, 0, 0);
}

// Copies the units [begin, end), kLookahead of them located and fetched ahead.
void copy_units(const CopyParams& params, const Tiling& tiling, uint32_t begin, uint32_t end,
                CopyRunFn copy_run) {
  Move moves[kLookahead];
  for (uint32_t i = begin; i - begin < kLookahead && i < end; ++i)
    prefetch(moves[(i - begin) % kLookahead] = move_of(params, tiling, i));
  for (uint32_t i = begin; i < end; ++i) {
    Move& slot = moves[(i - begin) % kLookahead];
    const Move move = slot;
    if (end - i > kLookahead) prefetch(slot = move_of(params, tiling, i + kLookahead));
    if (move.num_bytes > 0) copy_run(move.dst, move.src, move.num_bytes);
  }
}

CopyRunFn choose(const CopyParams& params, Isa isa) {
  HICACHE_CHECK(kLayout, has_isa(isa), "this machine has no isa=", static_cast<int>(isa));
  const int64_t page_bytes = params.plan.run_bytes * params.plan.runs_per_page.divisor;
  if (isa == Isa::kPortable || params.num_positions * page_bytes < kStreamingBytes)
    return copy_run_portable;
  return has_isa(Isa::kAvx2) ? streaming_avx2() : copy_run_portable;
}

}  // namespace

int64_t check_page_ids(const CopyParams& params) {
  std::vector<bool> taken(static_cast<size_t>(params.plan.dst_num_pages));
  int64_t num_copied = 0;
  for (int64_t i = 0; i < params.num_positions; ++i) {
    check_side("source", params.src_ids, i, params.plan.src_num_pages);
    check_side("destination", params.dst_ids, i, params.plan.dst_num_pages);
    const int64_t dst_page = params.dst_ids.at(i);
    if (params.src_ids.at(i) < 0 || dst_page < 0) continue;
    HICACHE_CHECK(kPageIndex, !taken[static_cast<size_t>(dst_page)],
                  "destination page id twice: position=", i, " value=", dst_page);
    taken[static_cast<size_t>(dst_page)] = true;
    ++num_copied;
  }
  return num_copied;
}

void copy_cpu_ref(const CopyParams& params) {
  for (int64_t i = 0; i < params.num_positions; ++i) {
    const int64_t src_page = params.src_ids.at(i), dst_page = params.dst_ids.at(i);
    if (src_page < 0 || dst_page < 0) continue;
    for (uint32_t run = 0; run < params.plan.runs_per_page.divisor; ++run) {
      int64_t src, dst;
      locate(params.plan, src_page, dst_page, run, src, dst);
      std::memcpy(params.dst + dst, params.src + src, static_cast<size_t>(params.plan.run_bytes));
    }
  }
}

bool has_isa(Isa isa) { return isa != Isa::kAvx2 || streaming_avx2() != nullptr; }

void copy_cpu(const CopyParams& params, int num_threads, Isa isa) {
  const CopyRunFn copy_run = choose(params, isa);
  const Tiling tiling = make_tiling(params.plan, kTaskBytes);
  const int64_t units_per_page =
      int64_t{params.plan.runs_per_page.divisor} * tiling.segments_per_run.divisor;
  const int64_t units_per_task = std::max<int64_t>(1, kTaskBytes / tiling.segment_bytes);
  CopyParams part = params;
  for (int64_t done = 0; done < params.num_positions; done += part.num_positions) {
    const int64_t most = max_positions(params.plan, tiling);
    part = positions_of(params, done, std::min(params.num_positions - done, most));
    const int64_t num_units = part.num_positions * units_per_page;
    parallel_for((num_units + units_per_task - 1) / units_per_task, num_threads, [&](int64_t task) {
      const int64_t begin = task * units_per_task;
      const int64_t end = std::min(begin + units_per_task, num_units);
      copy_units(part, tiling, static_cast<uint32_t>(begin), static_cast<uint32_t>(end), copy_run);
      finish_streaming();
    });
  }
}

}  // namespace hicache
