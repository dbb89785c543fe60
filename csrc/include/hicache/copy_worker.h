// The loop body of the register kernel, for host and device: the CPU runs it for every (block,
// thread) of a grid and proves that each destination byte is written once. No barrier and no
// shuffle in it, so the lanes of a worker may also run one after the other.
#pragma once

#include "hicache/copy_kernel.h"

namespace hicache {

struct alignas(16) Vec16 {
  uint32_t x, y, z, w;
};

// What the guard learned, where ids were not checked on the host.
struct CopyGuard {
  uint64_t first_bad;  // guard_word of the first position with an id out of range, else kNoBadPage
  uint64_t num_bytes;  // of the positions that were no holes and in range
};

constexpr uint64_t kNoBadPage = ~uint64_t{0};

// Position (counted through all parts) above side above value: the minimum is the first. Values
// past 32 bits saturate.
HICACHE_HD uint64_t guard_word(uint32_t position, CopySide side, int64_t value) {
  const uint64_t shown = value < 0xffffffff ? static_cast<uint64_t>(value) : 0xffffffff;
  return static_cast<uint64_t>(position) << 33 | static_cast<uint64_t>(side) << 32 | shown;
}

struct WorkerArgs {
  Pass pass;
  CopyGuard* guard;  // nullptr: the ids were checked on the host
};
static_assert(sizeof(WorkerArgs) <= 4096, "the parameters of a kernel");

// kUnroll loads of a lane are in flight before its first store; the last round is predicated.
template <class Word, int kLanes, int kUnroll, class Memory>
HICACHE_HD void copy_words(Memory& memory, const std::byte* src, std::byte* dst, int32_t num_words,
                           int32_t lane) {
  constexpr int32_t kStep = kLanes * static_cast<int32_t>(sizeof(Word));
  src += lane * static_cast<int32_t>(sizeof(Word));
  dst += lane * static_cast<int32_t>(sizeof(Word));
  for (int32_t left = num_words - lane; left > 0; left -= kLanes * kUnroll) {
#ifdef __CUDA_ARCH__
    Word words[kUnroll];
#pragma unroll
#else
    Word words[kUnroll] = {};  // g++ does not see that the two predicates are one
#endif
    for (int i = 0; i < kUnroll; ++i)
      if (i * kLanes < left) words[i] = memory.template load<Word>(src + i * kStep);
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
    for (int i = 0; i < kUnroll; ++i)
      if (i * kLanes < left) memory.store(dst + i * kStep, words[i]);
    src += kStep * kUnroll;
    dst += kStep * kUnroll;
  }
}

// Bytes up to the first aligned word, words of `Word`, the bytes behind the last; the caller knows
// that both sides are equally far from alignment.
template <class Word, int kLanes, int kUnroll, class Memory>
HICACHE_HD void copy_aligned(Memory& memory, const std::byte* src, std::byte* dst,
                             int32_t num_bytes, int32_t lane) {
  constexpr int32_t kWord = sizeof(Word);
  const int32_t to_aligned = -static_cast<int32_t>(reinterpret_cast<uintptr_t>(dst)) & (kWord - 1);
  const int32_t head = to_aligned < num_bytes ? to_aligned : num_bytes;
  const int32_t num_words = (num_bytes - head) / kWord;
  const int32_t tail = head + num_words * kWord;
  copy_words<uint8_t, kLanes, 1>(memory, src, dst, head, lane);
  copy_words<Word, kLanes, kUnroll>(memory, src + head, dst + head, num_words, lane);
  copy_words<uint8_t, kLanes, 1>(memory, src + tail, dst + tail, num_bytes - tail, lane);
}

template <int kLanes, int kUnroll, class Memory>
HICACHE_HD void copy_segment(Memory& memory, const std::byte* src, std::byte* dst,
                             int32_t num_bytes, int32_t lane) {
  const uintptr_t apart = reinterpret_cast<uintptr_t>(src) ^ reinterpret_cast<uintptr_t>(dst);
  if (apart % 16 == 0)
    copy_aligned<Vec16, kLanes, kUnroll>(memory, src, dst, num_bytes, lane);
  else if (apart % 8 == 0)
    copy_aligned<uint64_t, kLanes, kUnroll>(memory, src, dst, num_bytes, lane);
  else if (apart % 4 == 0)
    copy_aligned<uint32_t, kLanes, kUnroll>(memory, src, dst, num_bytes, lane);
  else
    copy_words<uint8_t, kLanes, kUnroll>(memory, src, dst, num_bytes, lane);
}

// True if the page pair is to be copied. Without a guard only holes can be refused.
template <class Memory>
HICACHE_HD bool admit(const WorkerArgs& args, uint32_t part, const Unit& unit, int64_t src_page,
                      int64_t dst_page, bool is_first_lane, Memory& memory) {
  const bool is_hole = src_page < 0 || dst_page < 0;
  if (args.guard == nullptr) return !is_hole;
  const Plan& plan = args.pass.set.parts[part].plan;
  const bool src_bad = src_page >= plan.src_num_pages;
  const bool dst_bad = dst_page >= plan.dst_num_pages;
  if (is_first_lane && unit.run == 0 && unit.begin == 0) {
    const uint32_t position = args.pass.first_positions[part] + unit.position;
    if (src_bad)
      memory.lower(&args.guard->first_bad, guard_word(position, CopySide::kSource, src_page));
    else if (dst_bad)
      memory.lower(&args.guard->first_bad, guard_word(position, CopySide::kDestination, dst_page));
    else if (!is_hole)
      memory.add(&args.guard->num_bytes, static_cast<uint64_t>(page_bytes(plan)));
  }
  return !is_hole && !src_bad && !dst_bad;
}

// What a worker moves at a time.
struct Segment {
  const std::byte* src;
  std::byte* dst;
  int32_t num_bytes;  // 0: a hole, or an id out of range
};

// Unit `unit` of the pass.
template <class Memory>
HICACHE_HD Segment segment_of(const WorkerArgs& args, uint32_t unit, bool is_first_lane,
                              Memory& memory) {
  const Pass& pass = args.pass;
  uint32_t part = 0;  // found anew: kept, it would cost a register through the copy
  while (unit >= pass.unit_ends[part]) ++part;
  const CopyParams& params = pass.set.parts[part];
  const Unit at = locate_unit(params.plan, pass.tilings[part], unit - pass.first_unit(part));
  const int64_t src_page = params.src_ids.at(at.position);
  const int64_t dst_page = params.dst_ids.at(at.position);
  if (!admit(args, part, at, src_page, dst_page, is_first_lane, memory)) return {};
  const RunAddress run = locate_run(params, src_page, dst_page, at.run);
  return {run.src + at.begin, run.dst + at.begin, static_cast<int32_t>(at.num_bytes)};
}

// What lane `lane` of worker `worker` does: every num_workers-th unit.
template <int kLanes, int kUnroll, class Memory>
HICACHE_HD void run_worker(const WorkerArgs& args, uint32_t worker, uint32_t num_workers,
                           uint32_t lane, Memory& memory) {
  const uint32_t num_units = args.pass.num_units();
  for (uint32_t i = worker; i < num_units; i += num_workers) {
    const Segment segment = segment_of(args, i, lane == 0, memory);
    copy_segment<kLanes, kUnroll>(memory, segment.src, segment.dst, segment.num_bytes,
                                  static_cast<int32_t>(lane));
  }
}

// The shapes that are compiled: runs of at most kShortRun bytes are copied by a quarter of a warp.
constexpr int64_t kShortRun = 512;
constexpr int64_t kSegmentBytes = 16384;

struct ShortRunShape {
  static constexpr int kLanes = 8, kUnroll = 4, kThreads = 1024;
};
struct LongRunShape {
  static constexpr int kLanes = 32, kUnroll = 8, kThreads = 512;
};

}  // namespace hicache
