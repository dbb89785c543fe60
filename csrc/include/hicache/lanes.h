// The wire format of one tick: what every rank puts into the MIN, and how the minimum is read.
// One set of functions for the bindings, the CUDA kernels and the tests; nothing else knows an
// offset.
//
//   header    schema ~schema epoch ~epoch digest ~digest
//   per slot  op ~op step ~step ready pages ~pages { short hit } per pool
//
// MIN over (x, ~x) yields the minimum and the complement of the maximum, so a pair that comes back
// unchanged was equal on all ranks, and a maximum needs no second collective. A shortage travels
// negated for the same reason. Values keep |x| < 2^62: no complement or negation can overflow or
// reach the neutral element.
#pragma once

#include <cstdint>

#include "hicache/hd.h"

namespace hicache {

inline constexpr int kLaneFormat = 1;  // part of the schema hash: bump it with any change below
inline constexpr int kMaxLanePools = 16;
inline constexpr int64_t kLaneNeutral = INT64_MAX;     // "not mine": never changes a minimum
inline constexpr int64_t kLaneFailed = INT64_MIN / 2;  // below any honest value: it wins
inline constexpr int64_t kLaneLimit = int64_t{1} << 62;

// An unused slot says so by an id of its own instead of the neutral element. A slot that one rank
// uses and another does not therefore fails the same equality test as two different ops; with
// neutral lanes the other rank's op would come back as if everyone had agreed on it.
inline constexpr int64_t kNoOp = -1;

enum HeaderLane : int { kSchemaLane = 0, kEpochLane = 2, kDigestLane = 4, kHeaderLanes = 6 };
enum SlotLane : int { kOpLane = 0, kStepLane = 2, kReadyLane = 4, kPagesLane = 5, kPoolLanes = 7 };

struct LaneSchema {
  int64_t hash;  // of the format and the pool names, the same on every rank
  int32_t num_pools;
  int32_t num_slots;
};

struct LaneHeader {
  int64_t epoch;
  int64_t digest;  // of the tree, before this tick is applied
};

// What this rank says about one slot.
struct SlotRecord {
  int64_t op_id;  // kNoOp: this rank does not use the slot, and the rest is not read
  int64_t step;
  int64_t ready;   // 0 or 1
  int64_t failed;  // 0 or 1; a failed rank has no say but this
  int64_t num_pages;
  int64_t short_pages[kMaxLanePools];  // pages that this rank lacks, 0 = none
  int64_t hits[kMaxLanePools];         // kLaneNeutral: the pool does not exist here
};

// What all ranks say together.
struct AgreedRecord {
  int64_t op_id;
  int64_t step;
  int64_t all_ready;
  int64_t any_failed;
  int64_t min_pages;
  int64_t max_pages;
  int64_t short_pages[kMaxLanePools];  // the largest shortage
  int64_t hits[kMaxLanePools];         // the smallest; kLaneNeutral: no rank has the pool
};

// The first lane that cannot be what it claims; lane < 0: all is well.
struct LaneVerdict {
  int64_t lane;
  int64_t mine;
  int64_t min;
  int64_t max;
};

HICACHE_HD int slot_lanes(const LaneSchema& schema) { return kPoolLanes + 2 * schema.num_pools; }

HICACHE_HD int64_t num_lanes(const LaneSchema& schema) {
  return kHeaderLanes + int64_t{schema.num_slots} * slot_lanes(schema);
}

HICACHE_HD int64_t slot_base(const LaneSchema& schema, int64_t slot_idx) {
  return kHeaderLanes + slot_idx * slot_lanes(schema);
}

HICACHE_HD void pack_pair(int64_t value, int64_t* pair) {
  pair[0] = value;
  pair[1] = ~value;
}

HICACHE_HD void pack_header(const LaneSchema& schema, const LaneHeader& header, int64_t* lanes) {
  pack_pair(schema.hash, lanes + kSchemaLane);
  pack_pair(header.epoch, lanes + kEpochLane);
  pack_pair(header.digest, lanes + kDigestLane);
}

HICACHE_HD void pack_unused_slot(const LaneSchema& schema, int64_t* lanes) {
  pack_pair(kNoOp, lanes + kOpLane);
  for (int field = kStepLane; field < slot_lanes(schema); ++field) lanes[field] = kLaneNeutral;
}

// `lanes` points at the slot's first lane.
HICACHE_HD void pack_slot(const LaneSchema& schema, const SlotRecord& record, int64_t* lanes) {
  if (record.op_id == kNoOp) return pack_unused_slot(schema, lanes);
  const bool failed = record.failed != 0;
  pack_pair(record.op_id, lanes + kOpLane);
  pack_pair(record.step, lanes + kStepLane);
  lanes[kReadyLane] = failed ? kLaneFailed : record.ready;
  lanes[kPagesLane] = failed ? kLaneFailed : record.num_pages;
  lanes[kPagesLane + 1] = failed ? kLaneNeutral : ~record.num_pages;
  for (int pool_idx = 0; pool_idx < schema.num_pools; ++pool_idx) {
    int64_t* pool = lanes + kPoolLanes + 2 * pool_idx;
    pool[0] = failed ? kLaneNeutral : -record.short_pages[pool_idx];
    pool[1] = failed ? kLaneFailed : record.hits[pool_idx];
  }
}

// Pairs stand first in the header and in a slot.
HICACHE_HD bool is_pair(int64_t lane, int64_t base) {
  return lane - base < (base == 0 ? int64_t{kHeaderLanes} : int64_t{kReadyLane});
}

// A reduced lane against the one that this rank sent. A pair must come back unchanged. Any other
// lane can only fall: one that rose is not a minimum over this rank's lanes of this tick.
HICACHE_HD bool is_bad_lane(const int64_t* agreed, const int64_t* mine, int64_t lane,
                            int64_t base) {
  return is_pair(lane, base) ? agreed[lane] != mine[lane] : agreed[lane] > mine[lane];
}

// The first bad lane of the header or slot at [base, end), or kLaneNeutral.
HICACHE_HD int64_t find_bad_lane(const int64_t* agreed, const int64_t* mine, int64_t base,
                                 int64_t end) {
  for (int64_t lane = base; lane < end; ++lane) {
    if (is_bad_lane(agreed, mine, lane, base)) return lane;
  }
  return kLaneNeutral;
}

// Of the whole vector.
HICACHE_HD int64_t find_bad_lane(const LaneSchema& schema, const int64_t* agreed,
                                 const int64_t* mine) {
  int64_t bad = find_bad_lane(agreed, mine, 0, kHeaderLanes);
  for (int slot_idx = 0; bad == kLaneNeutral && slot_idx < schema.num_slots; ++slot_idx) {
    const int64_t base = slot_base(schema, slot_idx);
    bad = find_bad_lane(agreed, mine, base, base + slot_lanes(schema));
  }
  return bad;
}

// Whether a slot's op can move: every rank is ready, or some rank has failed. `lanes` points at the
// slot's first lane; an unused slot is not settled.
HICACHE_HD bool is_settled(const int64_t* lanes) {
  return lanes[kReadyLane] == 1 || lanes[kReadyLane] == kLaneFailed;
}

HICACHE_HD LaneVerdict lane_verdict(const LaneSchema& schema, const int64_t* agreed,
                                    const int64_t* mine, int64_t lane) {
  if (lane == kLaneNeutral) return {-1, 0, 0, 0};
  // In 32 bits, where the lanes of a tick always fit: a 64-bit division is a call on the GPU.
  const auto slot_idx =
      static_cast<uint32_t>(lane - kHeaderLanes) / static_cast<uint32_t>(slot_lanes(schema));
  const int64_t base = lane < kHeaderLanes ? 0 : slot_base(schema, slot_idx);
  if (!is_pair(lane, base)) return {lane, mine[lane], agreed[lane], agreed[lane]};
  const int64_t first = base + ((lane - base) & ~int64_t{1});
  return {first, mine[first], agreed[first], ~agreed[first + 1]};
}

HICACHE_HD int64_t clamp_failed(int64_t value) { return value < 0 ? 0 : value; }

// Reads a verified slot. `lanes` points at its first lane.
HICACHE_HD void agree_slot(const LaneSchema& schema, const int64_t* lanes, AgreedRecord* out) {
  out->op_id = lanes[kOpLane];
  out->step = lanes[kStepLane];
  out->any_failed = lanes[kReadyLane] == kLaneFailed;
  out->all_ready = lanes[kReadyLane] == 1;
  out->min_pages = clamp_failed(lanes[kPagesLane]);
  // Neutral when every rank failed: nobody has pages.
  const int64_t max_lane = lanes[kPagesLane + 1];
  out->max_pages = max_lane == kLaneNeutral ? 0 : ~max_lane;
  for (int pool_idx = 0; pool_idx < schema.num_pools; ++pool_idx) {
    const int64_t* pool = lanes + kPoolLanes + 2 * pool_idx;
    out->short_pages[pool_idx] = pool[0] == kLaneNeutral ? 0 : -pool[0];
    out->hits[pool_idx] = clamp_failed(pool[1]);
  }
}

// What one of `num_threads` threads does to pack; the CPU is thread 0 of 1. `slots` has a record
// for every slot of the schema, unused ones with op_id kNoOp.
HICACHE_HD void pack_body(const LaneSchema& schema, const LaneHeader& header,
                          const SlotRecord* slots, int64_t* lanes, int thread_idx,
                          int num_threads) {
  if (thread_idx == 0) pack_header(schema, header, lanes);
  for (int slot_idx = thread_idx; slot_idx < schema.num_slots; slot_idx += num_threads) {
    pack_slot(schema, slots[slot_idx], lanes + slot_base(schema, slot_idx));
  }
}

// What one of `num_threads` threads does to verify and unpack: returns its first bad lane or
// kLaneNeutral, the caller takes the minimum. `out` has a record per slot; unless the verdict over
// all threads is good, none of them may be applied.
HICACHE_HD int64_t unpack_body(const LaneSchema& schema, const int64_t* agreed, const int64_t* mine,
                               AgreedRecord* out, int thread_idx, int num_threads) {
  int64_t bad = kLaneNeutral;
  if (thread_idx == 0) bad = find_bad_lane(agreed, mine, 0, kHeaderLanes);
  for (int slot_idx = thread_idx; slot_idx < schema.num_slots; slot_idx += num_threads) {
    const int64_t base = slot_base(schema, slot_idx);
    const int64_t found = find_bad_lane(agreed, mine, base, base + slot_lanes(schema));
    if (found < bad) bad = found;
    agree_slot(schema, agreed + base, out + slot_idx);
  }
  return bad;
}

}  // namespace hicache
