// Seeded ticks for the C++ and CUDA tests of lanes.h.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "hicache/lanes_unpack.h"

#define EXPECT(condition, ...)                                             \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                   \
      std::fputc('\n', stderr);                                            \
      std::exit(1);                                                        \
    }                                                                      \
  } while (0)

namespace hicache::test {

constexpr int64_t kPoison = 0x5a5a5a5a5a5a5a5a;

struct Tick {
  LaneSchema schema;
  LaneHeader header;
  std::vector<std::vector<SlotRecord>> slots;   // [num_ranks][num_slots]
  std::vector<std::vector<uint8_t>> endpoints;  // [num_ranks][num_endpoints]

  std::vector<int64_t> pack(int rank) const {
    std::vector<int64_t> lanes(num_lanes(schema), kPoison);
    pack_body(schema, header, slots[rank].data(), endpoints[rank].data(), lanes.data(), 0, 1);
    return lanes;
  }
};

inline std::vector<int64_t> min_over(const std::vector<std::vector<int64_t>>& ranks) {
  std::vector<int64_t> out = ranks[0];
  for (const auto& lanes : ranks) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = lanes[i] < out[i] ? lanes[i] : out[i];
  }
  return out;
}

inline LaneHeader random_header(std::mt19937_64& random, const LaneSchema& schema) {
  const auto value = [&] { return static_cast<int64_t>(random() % kLaneLimit); };
  LaneHeader header{value(), value(), value(), value(), value(), kNobodyAsks, {}};
  if (random() % 3 != 0) header.asking_slot = static_cast<int64_t>(random() % schema.num_slots);
  for (int64_t& free : header.free_pages) free = random() % 4 == 0 ? kLaneNeutral : value();
  return header;
}

// Ops and steps are the same on all ranks, the rest is as it comes.
inline Tick random_tick(uint32_t seed, int num_ranks) {
  std::mt19937_64 random(seed);
  const auto below = [&](int64_t end) { return static_cast<int64_t>(random() % end); };
  const auto value = [&] { return below(3) == 0 ? below(kLaneLimit) : below(100); };
  const int sizes[] = {1, 2, 7, 64, 129, 300};
  Tick tick{{below(kLaneLimit), static_cast<int32_t>(below(kMaxLanePools + 1)), sizes[below(6)],
             sizes[below(6)]},
            {},
            std::vector<std::vector<SlotRecord>>(num_ranks),
            std::vector<std::vector<uint8_t>>(num_ranks)};
  tick.header = random_header(random, tick.schema);
  const int64_t rarity = 1 + below(tick.schema.num_endpoints + 1);
  for (auto& flags : tick.endpoints) {
    flags.resize(tick.schema.num_endpoints);
    for (uint8_t& flag : flags) flag = below(rarity) == 0;
  }
  for (auto& slots : tick.slots) slots.resize(tick.schema.num_slots);
  for (int slot_idx = 0; slot_idx < tick.schema.num_slots; ++slot_idx) {
    const bool used = below(4) != 0;
    const int64_t op_id = used ? value() : kNoOp, step = value();
    for (auto& slots : tick.slots) {
      SlotRecord& record = slots[slot_idx];
      record = {op_id, step, below(2), below(8) == 0, value(), {}, {}};
      for (int i = 0; i < kMaxLanePools; ++i) {
        record.short_pages[i] = value();
        record.hits[i] = below(4) == 0 ? kLaneNeutral : value();
      }
    }
  }
  return tick;
}

inline bool same_slot(const LaneSchema& schema, const AgreedRecord& a, const AgreedRecord& b) {
  bool same = a.op_id == b.op_id && a.step == b.step && a.all_ready == b.all_ready &&
              a.any_failed == b.any_failed && a.min_pages == b.min_pages &&
              a.max_pages == b.max_pages && a.endpoint_idx == b.endpoint_idx;
  for (int i = 0; i < schema.num_pools; ++i) {
    same = same && a.short_pages[i] == b.short_pages[i] && a.hits[i] == b.hits[i];
  }
  return same;
}

inline bool same_verdict(const LaneVerdict& a, const LaneVerdict& b) {
  return a.lane == b.lane && a.mine == b.mine && a.min == b.min && a.max == b.max;
}

}  // namespace hicache::test
