// How the minimum of all ranks' lanes is verified and read; the format is lanes.h.
#pragma once

#include "hicache/lanes.h"

namespace hicache {

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
  int64_t endpoint_idx;  // the first that all ranks have, < 0: none, or the slot does not ask
};

// The first lane that cannot be what it claims; lane < 0: all is well.
struct LaneVerdict {
  int64_t lane;
  int64_t mine;
  int64_t min;
  int64_t max;
};

// A reduced lane against the one that this rank sent. A pair must come back unchanged. Any other
// lane can only fall: one that rose is not a minimum over this rank's lanes of this tick.
HICACHE_HD bool is_bad_lane(const int64_t* agreed, const int64_t* mine, int64_t lane,
                            bool is_pair) {
  return is_pair ? agreed[lane] != mine[lane] : agreed[lane] > mine[lane];
}

// The first bad lane of the area, or kLaneNeutral.
HICACHE_HD int64_t find_bad_lane(const int64_t* agreed, const int64_t* mine, const LaneArea& area) {
  for (int64_t lane = area.begin; lane < area.end; ++lane) {
    if (is_bad_lane(agreed, mine, lane, lane < area.pairs_end)) return lane;
  }
  return kLaneNeutral;
}

// Whether there is one, without a branch for each lane.
HICACHE_HD bool has_bad_lane(const int64_t* agreed, const int64_t* mine, const LaneArea& area) {
  int64_t differs = 0;
  bool rose = false;
  for (int64_t i = area.begin; i < area.pairs_end; ++i) differs |= agreed[i] ^ mine[i];
  for (int64_t i = area.pairs_end; i < area.end; ++i) rose |= agreed[i] > mine[i];
  return differs != 0 || rose;
}

// Whether the ready lane says what no rank says: its op would never settle, or an unused slot
// would. `lanes` points at the first lane of a slot whose ops agree.
HICACHE_HD bool is_bad_ready(const int64_t* lanes) {
  const int64_t ready = lanes[kReadyLane];
  if (lanes[kOpLane] == kNoOp) return ready != kLaneNeutral;
  return ready != 0 && ready != 1 && ready != kLaneFailed;
}

// Of one slot.
HICACHE_HD int64_t find_bad_slot_lane(const LaneSchema& schema, const int64_t* agreed,
                                      const int64_t* mine, int64_t slot_idx) {
  const LaneArea area = slot_area(schema, slot_idx);
  const int64_t bad = find_bad_lane(agreed, mine, area), ready = area.begin + kReadyLane;
  return ready < bad && is_bad_ready(agreed + area.begin) ? ready : bad;
}

// Of the whole vector.
HICACHE_HD int64_t find_bad_lane(const LaneSchema& schema, const int64_t* agreed,
                                 const int64_t* mine) {
  const auto look = [&](const LaneArea& area) {
    return has_bad_lane(agreed, mine, area) ? find_bad_lane(agreed, mine, area) : kLaneNeutral;
  };
  int64_t bad = look(header_area(schema));
  for (int slot_idx = 0; bad == kLaneNeutral && slot_idx < schema.num_slots; ++slot_idx) {
    const LaneArea area = slot_area(schema, slot_idx);
    if (!has_bad_lane(agreed, mine, area) && !is_bad_ready(agreed + area.begin)) continue;
    bad = find_bad_slot_lane(schema, agreed, mine, slot_idx);
  }
  return bad == kLaneNeutral ? look(endpoint_area(schema)) : bad;
}

// Whether a slot's op can move: every rank is ready, or some rank has failed. `lanes` points at the
// slot's first lane; an unused slot is not settled.
HICACHE_HD bool is_settled(const int64_t* lanes) {
  return lanes[kReadyLane] == 1 || lanes[kReadyLane] == kLaneFailed;
}

HICACHE_HD LaneVerdict lane_verdict(const LaneSchema& schema, const int64_t* agreed,
                                    const int64_t* mine, int64_t lane) {
  if (lane == kLaneNeutral) return {-1, 0, 0, 0};
  const LaneArea area = area_of(schema, lane);
  if (lane >= area.pairs_end) return {lane, mine[lane], agreed[lane], agreed[lane]};
  const int64_t first = area.begin + ((lane - area.begin) & ~int64_t{1});
  return {first, mine[first], agreed[first], ~agreed[first + 1]};
}

HICACHE_HD int64_t clamp_failed(int64_t value) { return value < 0 ? 0 : value; }

// The largest endpoint that every rank has is the first in the lanes.
HICACHE_HD int64_t find_endpoint(const LaneSchema& schema, const int64_t* agreed) {
  const int64_t* lanes = agreed + endpoint_base(schema);
  for (int idx = 0; idx < schema.num_endpoints; ++idx) {
    if (lanes[idx] == 1) return idx;
  }
  return -1;
}

// Reads a verified slot, but for the endpoint. `lanes` points at its first lane.
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
  out->endpoint_idx = -1;
}

// The minimum of the ranks' rows in one lane.
HICACHE_HD int64_t min_of_rows(const int64_t* rows, int num_rows, int64_t num_lanes, int64_t lane) {
  const int64_t* value = rows + lane;
  int64_t low = *value;
  for (int row = 1; row < num_rows; ++row) {
    value += num_lanes;
    if (*value < low) low = *value;
  }
  return low;
}

// What one of `num_threads` threads does to verify and unpack: returns its first bad lane or
// kLaneNeutral, the caller takes the minimum. `out` has a record per slot; unless the verdict over
// all threads is good, none of them may be applied.
HICACHE_HD int64_t unpack_body(const LaneSchema& schema, const int64_t* agreed, const int64_t* mine,
                               AgreedRecord* out, int thread_idx, int num_threads) {
  int64_t bad = kLaneNeutral;
  if (thread_idx == 0) bad = find_bad_lane(agreed, mine, header_area(schema));
  for (int slot_idx = thread_idx; slot_idx < schema.num_slots; slot_idx += num_threads) {
    const int64_t found = find_bad_slot_lane(schema, agreed, mine, slot_idx);
    if (found < bad) bad = found;
    agree_slot(schema, agreed + slot_base(schema, slot_idx), out + slot_idx);
  }
  const int64_t endpoints = endpoint_base(schema);
  for (int idx = thread_idx; idx < schema.num_endpoints; idx += num_threads) {
    const int64_t lane = endpoints + idx;
    if (lane < bad && is_bad_lane(agreed, mine, lane, false)) bad = lane;
  }
  // Its record is this thread's own.
  const int64_t asking = agreed[kAskingLane];
  if (0 <= asking && asking < schema.num_slots &&
      static_cast<uint32_t>(asking) % static_cast<uint32_t>(num_threads) ==
          static_cast<uint32_t>(thread_idx)) {
    out[asking].endpoint_idx = find_endpoint(schema, agreed);
  }
  return bad;
}

}  // namespace hicache
