// Host gather and scatter between a pool and packed slots, one slot after the other on each thread.
#include "hicache/staging.h"

#include <algorithm>
#include <cstring>

#include "hicache/check.h"
#include "hicache/thread_pool.h"
#include "hicache/xxh3.h"
#include "wide_copy.h"

namespace hicache {
namespace {

// Runs from here on are hashed on their way. A hash takes them in the order of the slot, which is
// slower to read than that of the pool: for shorter ones a second look at the object costs less.
constexpr int64_t kLongRunBytes = 16 << 10;
// What was hashed lies in the L1 when it is copied.
constexpr int64_t kPieceBytes = 2 << 10;
// The hardware follows a run once it has begun; where the next one begins only we know.
constexpr int64_t kBytesAhead = 4 << 10;
constexpr int64_t kLineBytes = 64;

using StrideOf = int64_t Axis::*;  // on the side of the slots

// The plan with its runs as they follow each other in a slot.
Plan in_slot_order(Plan plan, StrideOf stride) {
  std::stable_sort(plan.axes, plan.axes + plan.num_axes,
                   [&](const Axis& a, const Axis& b) { return a.*stride < b.*stride; });
  return plan;
}

// Throws where a page is not one object without gaps, or the slots lie too close for it.
void require_packed(const Plan& in_order, StrideOf stride, int64_t slot_stride) {
  int64_t packed = in_order.run_bytes;
  for (uint32_t i = 0; i < in_order.num_axes; ++i) {
    const Axis& axis = in_order.axes[i];
    HICACHE_CHECK(kLayout, axis.*stride == packed, "slots are not packed: stride=", axis.*stride,
                  " after ", packed, " bytes");
    packed *= axis.extent;
  }
  HICACHE_CHECK(kLayout, slot_stride >= packed, "slot_stride=", slot_stride,
                " is less than an object of ", packed, " bytes");
}

void copy_page(const CopyParams& part, int64_t src_page, int64_t dst_page, CopyStripFn copy_strip) {
  const Slices slices(part.plan, kMaxUnits - 1);
  CopyParams box = part;
  for (int64_t slice = 0; slice < slices.size(); ++slice) {
    box.plan = slices.at(slice);
    for (uint32_t run = 0; run < box.plan.runs_per_page;) {
      const Strip strip = locate_strip(box, src_page, dst_page, run);
      copy_strip(strip);
      run += strip.num_runs;
    }
  }
}

void hash_and_copy(Xxh3Long& hash, const RunAddress& at, int64_t num_bytes,
                   CopyStripFn copy_strip) {
  for (int64_t done = 0; done < num_bytes; done += kPieceBytes) {
    const Strip piece{
        at.src + done, at.dst + done, 0, 0, std::min(num_bytes - done, kPieceBytes), 1};
    hash.update(piece.src, piece.run_bytes);
    copy_strip(piece);
  }
}

// The plan of `part` is in the order of the slot.
Hash128 copy_page_hashed(const CopyParams& part, int64_t page, int64_t slot, uint64_t seed,
                         CopyStripFn copy_strip) {
  Xxh3Long hash(seed, Isa::kAuto);
  RunAddress next = locate_run(part, page, slot, 0);
  for (uint32_t run = 1; run <= part.plan.runs_per_page; ++run) {
    const RunAddress at = next;
    if (run < part.plan.runs_per_page) {
      next = locate_run(part, page, slot, run);
      for (int64_t i = 0; i < kBytesAhead; i += kLineBytes) __builtin_prefetch(next.src + i, 0, 2);
    }
    hash_and_copy(hash, at, part.plan.run_bytes, copy_strip);
  }
  return hash.finish();
}

// Calls fn(position, source page, destination page) for all that are no holes, on many threads.
template <class Fn>
void for_each_pair(const CopyParams& part, int num_threads, Fn fn) {
  parallel_for(part.num_positions, num_threads, [&](int64_t position) {
    const int64_t src_page = part.src_ids.at(position), dst_page = part.dst_ids.at(position);
    if (src_page >= 0 && dst_page >= 0) fn(position, src_page, dst_page);
    finish_streaming();
  });
}

CopyStripFn copier(const CopyParams& part) {
  return widest_copy(part.num_positions * page_bytes(part.plan));
}

}  // namespace

void gather_slots(const CopyParams& part, const uint64_t* seeds, std::byte* digests,
                  int num_threads) {
  CopyParams in_order = part;
  in_order.plan = in_slot_order(part.plan, &Axis::dst_stride);
  require_packed(in_order.plan, &Axis::dst_stride, part.plan.dst_page_stride);
  const CopyStripFn copy_strip = copier(part);
  const int64_t object_bytes = page_bytes(part.plan);
  const int64_t padding_bytes = part.plan.dst_page_stride - object_bytes;
  const bool is_hashed_on_its_way = seeds != nullptr && part.plan.run_bytes >= kLongRunBytes &&
                                    part.plan.runs_per_page < kMaxUnits;
  for_each_pair(part, num_threads, [&](int64_t position, int64_t page, int64_t slot) {
    std::byte* const object = locate_run(part, page, slot, 0).dst;
    Hash128 hash{};
    if (is_hashed_on_its_way) {
      hash = copy_page_hashed(in_order, page, slot, seeds[position], copy_strip);
    } else {
      copy_page(part, page, slot, copy_strip);
      if (seeds != nullptr) hash = xxh3_128(object, object_bytes, seeds[position], Isa::kAuto);
    }
    if (seeds != nullptr) write_digest(hash, digests + position * kHash128Bytes);
    std::memset(object + object_bytes, 0, static_cast<size_t>(padding_bytes));
  });
}

void scatter_slots(const CopyParams& part, const uint64_t* seeds, const std::byte* digests,
                   uint8_t* is_written, int num_threads) {
  require_packed(in_slot_order(part.plan, &Axis::src_stride), &Axis::src_stride,
                 part.plan.src_page_stride);
  const CopyStripFn copy_strip = copier(part);
  const int64_t object_bytes = page_bytes(part.plan);
  std::fill_n(is_written, part.num_positions, uint8_t{0});
  for_each_pair(part, num_threads, [&](int64_t position, int64_t slot, int64_t page) {
    if (seeds != nullptr) {
      const std::byte* const object = locate_run(part, slot, page, 0).src;
      std::byte digest[kHash128Bytes];
      write_digest(xxh3_128(object, object_bytes, seeds[position], Isa::kAuto), digest);
      if (std::memcmp(digest, digests + position * kHash128Bytes, sizeof(digest)) != 0) return;
    }
    copy_page(part, slot, page, copy_strip);
    is_written[position] = 1;
  });
}

}  // namespace hicache
