// Copies of pages on the CPU: the reference, and threads with wide stores.
#include "hicache/copy.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "hicache/check.h"
#include "hicache/copy_pass.h"
#include "hicache/thread_pool.h"
#include "wide_copy.h"

namespace hicache {
namespace {

constexpr int64_t kTaskBytes = int64_t{1} << 20;
// Below it the destination is likely read soon and fits in a cache; streamed stores would evict it.
constexpr int64_t kStreamingBytes = int64_t{8} << 20;
constexpr uint32_t kLookahead = 8;
constexpr int64_t kPrefetchBytes = 512;

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
  const RunAddress at = locate_run(params, src_page, dst_page, unit.run);
  return {at.src + unit.begin, at.dst + unit.begin, unit.num_bytes};
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

// About kTaskBytes of one part.
struct Task {
  uint32_t part;
  uint32_t begin, end;  // units of the part
};

std::vector<Task> tasks_of(const Pass& pass) {
  std::vector<Task> tasks;
  for (uint32_t part = 0; part < pass.set.num_parts; ++part) {
    const auto units_per_task =
        static_cast<uint32_t>(std::max<int64_t>(1, kTaskBytes / pass.tilings[part].segment_bytes));
    const uint32_t num_units = pass.unit_ends[part] - pass.first_unit(part);
    for (uint32_t begin = 0; begin < num_units; begin += units_per_task)
      tasks.push_back({part, begin, std::min(begin + units_per_task, num_units)});
  }
  return tasks;
}

CopyRunFn choose(const CopySet& set, Isa isa) {
  HICACHE_CHECK(kLayout, has_isa(isa), "this machine has no isa=", static_cast<int>(isa));
  int64_t num_bytes = 0;
  for (uint32_t part = 0; part < set.num_parts; ++part)
    num_bytes += set.parts[part].num_positions * page_bytes(set.parts[part].plan);
  if (isa == Isa::kPortable || num_bytes < kStreamingBytes) return copy_run_portable;
  return has_isa(Isa::kAvx2) ? streaming_avx2() : copy_run_portable;
}

void copy_all_runs(const CopyParams& params) {
  for (int64_t i = 0; i < params.num_positions; ++i) {
    const int64_t src_page = params.src_ids.at(i), dst_page = params.dst_ids.at(i);
    if (src_page < 0 || dst_page < 0) continue;
    for (int64_t run = 0; run < params.plan.runs_per_page; ++run) {
      const RunAddress at = locate_run(params, src_page, dst_page, static_cast<uint32_t>(run));
      std::memcpy(at.dst, at.src, static_cast<size_t>(params.plan.run_bytes));
    }
  }
}

}  // namespace

void copy_cpu_ref(const CopySet& set) {
  for (uint32_t p = 0; p < set.num_parts; ++p) {
    const CopyParams& part = set.parts[p];
    const Slices slices(part.plan, kMaxUnits - 1);
    CopyParams box = part;
    for (int64_t slice = 0; slice < slices.size(); ++slice) {
      box.plan = slices.at(slice);
      copy_all_runs(box);
    }
  }
}

bool has_isa(Isa isa) { return isa != Isa::kAvx2 || streaming_avx2() != nullptr; }

void copy_cpu(const CopySet& set, int num_threads, Isa isa) {
  const CopyRunFn copy_run = choose(set, isa);
  for_each_pass(set, kTaskBytes, [&](const Pass& pass) {
    const std::vector<Task> tasks = tasks_of(pass);
    parallel_for(static_cast<int64_t>(tasks.size()), num_threads, [&](int64_t i) {
      const Task& task = tasks[static_cast<size_t>(i)];
      copy_units(pass.set.parts[task.part], pass.tilings[task.part], task.begin, task.end,
                 copy_run);
      finish_streaming();
    });
  });
}

}  // namespace hicache
