// The wire format of one tick: what every rank puts into the MIN. lanes_unpack.h reads the minimum.
// One set of functions for the bindings, the CUDA kernels and the tests; nothing else knows an
// offset.
//
//   header      schema epoch digest ops calls waiting asking, each as (x, ~x)
//               free pages: { device } per pool { host } per pool
//   per slot    op ~op step ~step ready pages ~pages { short hit } per pool
//   endpoints   one lane each, for the one op that asks in this tick
//
// MIN over (x, ~x) yields the minimum and the complement of the maximum, so a pair that comes back
// unchanged was equal on all ranks, and a maximum needs no second collective. A shortage travels
// negated for the same reason. Values keep |x| < 2^62: no complement or negation can overflow or
// reach the neutral element.
#pragma once

#include <cstdint>

#include "hicache/hd.h"

namespace hicache {

inline constexpr int kLaneFormat = 2;  // part of the schema hash: bump it with any change below
inline constexpr int kMaxLanePools = 16;
inline constexpr int kLaneTiers = 2;                   // with free pages of their own: device, host
inline constexpr int64_t kLaneNeutral = INT64_MAX;     // "not mine": never changes a minimum
inline constexpr int64_t kLaneFailed = INT64_MIN / 2;  // below any honest value: it wins
inline constexpr int64_t kLaneLimit = int64_t{1} << 62;

// An unused slot says so by an id of its own instead of the neutral element. A slot that one rank
// uses and another does not therefore fails the same equality test as two different ops; with
// neutral lanes the other rank's op would come back as if everyone had agreed on it.
inline constexpr int64_t kNoOp = -1;
inline constexpr int64_t kNobodyAsks = -1;  // in place of the slot that asks

enum HeaderLane : int {
  kSchemaLane = 0,
  kEpochLane = 2,
  kDigestLane = 4,
  kOpsLane = 6,
  kCallsLane = 8,
  kWaitingLane = 10,
  kAskingLane = 12,
  kFreeLanes = 14,
};
enum SlotLane : int { kOpLane = 0, kStepLane = 2, kReadyLane = 4, kPagesLane = 5, kPoolLanes = 7 };

struct LaneSchema {
  int64_t hash;  // of the format and the pool names, the same on every rank
  int32_t num_pools;
  int32_t num_slots;
  int32_t num_endpoints;  // lanes of the endpoints, shared by all slots
};

struct LaneHeader {
  int64_t epoch;
  int64_t digest;                                  // of the tree, before the tick is applied
  int64_t num_ops;                                 // created so far
  int64_t calls;                                   // a hash of all calls so far, or 0
  int64_t num_waiting;                             // ops without a slot
  int64_t asking_slot;                             // whose endpoints these are, or kNobodyAsks
  int64_t free_pages[kLaneTiers * kMaxLanePools];  // [tier, num_pools]; kLaneNeutral: not told
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

HICACHE_HD int slot_lanes(const LaneSchema& schema) { return kPoolLanes + 2 * schema.num_pools; }

HICACHE_HD int num_free_lanes(const LaneSchema& schema) { return kLaneTiers * schema.num_pools; }

HICACHE_HD int64_t slot_base(const LaneSchema& schema, int64_t slot_idx) {
  return kFreeLanes + num_free_lanes(schema) + slot_idx * slot_lanes(schema);
}

HICACHE_HD int64_t endpoint_base(const LaneSchema& schema) {
  return slot_base(schema, schema.num_slots);
}

HICACHE_HD int64_t num_lanes(const LaneSchema& schema) {
  return endpoint_base(schema) + schema.num_endpoints;
}

// Lanes [begin, end), of which those before `pairs_end` are pairs: the header, one slot, or the
// endpoints.
struct LaneArea {
  int64_t begin;
  int64_t pairs_end;
  int64_t end;
};

HICACHE_HD LaneArea header_area(const LaneSchema& schema) {
  return {0, kFreeLanes, slot_base(schema, 0)};
}

HICACHE_HD LaneArea slot_area(const LaneSchema& schema, int64_t slot_idx) {
  const int64_t begin = slot_base(schema, slot_idx);
  return {begin, begin + kReadyLane, begin + slot_lanes(schema)};
}

HICACHE_HD LaneArea endpoint_area(const LaneSchema& schema) {
  const int64_t begin = endpoint_base(schema);
  return {begin, begin, num_lanes(schema)};
}

HICACHE_HD LaneArea area_of(const LaneSchema& schema, int64_t lane) {
  const LaneArea header = header_area(schema);
  if (lane < header.end) return header;
  if (lane >= endpoint_base(schema)) return endpoint_area(schema);
  // In 32 bits, where the lanes of a tick always fit: a 64-bit division is a call on the GPU.
  return slot_area(
      schema, static_cast<uint32_t>(lane - header.end) / static_cast<uint32_t>(slot_lanes(schema)));
}

HICACHE_HD void pack_pair(int64_t value, int64_t* pair) {
  pair[0] = value;
  pair[1] = ~value;
}

HICACHE_HD void pack_header(const LaneSchema& schema, const LaneHeader& header, int64_t* lanes) {
  pack_pair(schema.hash, lanes + kSchemaLane);
  pack_pair(header.epoch, lanes + kEpochLane);
  pack_pair(header.digest, lanes + kDigestLane);
  pack_pair(header.num_ops, lanes + kOpsLane);
  pack_pair(header.calls, lanes + kCallsLane);
  pack_pair(header.num_waiting, lanes + kWaitingLane);
  pack_pair(header.asking_slot, lanes + kAskingLane);
  for (int i = 0; i < num_free_lanes(schema); ++i) lanes[kFreeLanes + i] = header.free_pages[i];
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

// What one of `num_threads` threads does. `endpoints` has a flag for each lane, and is not read
// while nobody asks.
HICACHE_HD void pack_endpoints(const LaneSchema& schema, const LaneHeader& header,
                               const uint8_t* endpoints, int64_t* lanes, int thread_idx,
                               int num_threads) {
  const bool asks = header.asking_slot != kNobodyAsks;
  lanes += endpoint_base(schema);
  for (int idx = thread_idx; idx < schema.num_endpoints; idx += num_threads) {
    lanes[idx] = asks ? int64_t{endpoints[idx] != 0} : kLaneNeutral;
  }
}

// What one of `num_threads` threads does to pack; the CPU is thread 0 of 1. `slots` has a record
// for every slot of the schema, unused ones with op_id kNoOp; `endpoints` as in pack_endpoints().
HICACHE_HD void pack_body(const LaneSchema& schema, const LaneHeader& header,
                          const SlotRecord* slots, const uint8_t* endpoints, int64_t* lanes,
                          int thread_idx, int num_threads) {
  if (thread_idx == 0) pack_header(schema, header, lanes);
  for (int slot_idx = thread_idx; slot_idx < schema.num_slots; slot_idx += num_threads) {
    pack_slot(schema, slots[slot_idx], lanes + slot_base(schema, slot_idx));
  }
  pack_endpoints(schema, header, endpoints, lanes, thread_idx, num_threads);
}

}  // namespace hicache
