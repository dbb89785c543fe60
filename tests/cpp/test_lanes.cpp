// The bodies of the pack and unpack kernels on the CPU, for any number of threads: each lane and
// each record is written once, the verdict does not depend on who found the bad lane.
#include <algorithm>

#include "lane_cases.h"

using namespace hicache;
using namespace hicache::test;

namespace {

void check_pack(const Tick& tick, uint32_t seed, int64_t num_threads) {
  const std::vector<int64_t> want = tick.pack(0);
  std::vector<int> num_writes(want.size(), 0);
  for (int64_t thread = num_threads; thread-- > 0;) {
    std::vector<int64_t> lanes(want.size() + 8, kPoison);
    pack_body(tick.schema, tick.header, tick.slots[0].data(), tick.endpoints[0].data(),
              lanes.data(), thread, num_threads);
    for (size_t i = 0; i < lanes.size(); ++i) {
      if (lanes[i] == kPoison) continue;
      EXPECT(i < want.size() && lanes[i] == want[i], "seed %u lane %zu", seed, i);
      ++num_writes[i];
    }
  }
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT(num_writes[i] == 1, "seed %u threads %ld: lane %zu written %d times", seed,
           static_cast<long>(num_threads), i, num_writes[i]);
  }
}

int64_t unpack_all(const Tick& tick, const std::vector<int64_t>& agreed,
                   const std::vector<int64_t>& mine, std::vector<AgreedRecord>* out,
                   int64_t num_threads) {
  int64_t bad = kLaneNeutral;
  for (int64_t thread = num_threads; thread-- > 0;) {
    bad = std::min(bad, unpack_body(tick.schema, agreed.data(), mine.data(), out->data(), thread,
                                    num_threads));
  }
  return bad;
}

// The slot that asks learns of the first endpoint that all ranks have; no other slot does.
void check_endpoint(const Tick& tick, uint32_t seed, const std::vector<AgreedRecord>& got) {
  int64_t common = -1;
  for (int idx = tick.schema.num_endpoints; idx-- > 0;) {
    bool everywhere = true;
    for (const auto& flags : tick.endpoints) everywhere = everywhere && flags[idx] != 0;
    if (everywhere) common = idx;
  }
  for (int slot_idx = 0; slot_idx < tick.schema.num_slots; ++slot_idx) {
    const int64_t want = tick.header.asking_slot == slot_idx ? common : -1;
    EXPECT(got[slot_idx].endpoint_idx == want, "seed %u slot %d: endpoint %ld, not %ld", seed,
           slot_idx, static_cast<long>(got[slot_idx].endpoint_idx), static_cast<long>(want));
  }
}

void check_unpack(const Tick& tick, uint32_t seed, int64_t num_threads) {
  std::vector<std::vector<int64_t>> ranks;
  for (size_t rank = 0; rank < tick.slots.size(); ++rank) ranks.push_back(tick.pack(rank));
  std::vector<int64_t> agreed = min_over(ranks);
  std::vector<AgreedRecord> want(tick.schema.num_slots), got(tick.schema.num_slots);
  EXPECT(unpack_all(tick, agreed, ranks[0], &want, 1) == kLaneNeutral, "seed %u", seed);
  EXPECT(unpack_all(tick, agreed, ranks[0], &got, num_threads) == kLaneNeutral, "seed %u", seed);
  for (int slot_idx = 0; slot_idx < tick.schema.num_slots; ++slot_idx) {
    if (want[slot_idx].op_id == kNoOp) continue;
    EXPECT(same_slot(tick.schema, got[slot_idx], want[slot_idx]), "seed %u slot %d", seed,
           slot_idx);
  }
  check_endpoint(tick, seed, want);
  // Two ranks' worth of damage: the first one is reported, whichever thread meets it first.
  const int64_t first = seed % agreed.size(), second = (seed * 7 + 3) % agreed.size();
  for (int64_t lane : {first, second}) agreed[lane] = INT64_MAX - 1;
  const int64_t bad = unpack_all(tick, agreed, ranks[0], &got, num_threads);
  EXPECT(bad == unpack_all(tick, agreed, ranks[0], &want, 1), "seed %u", seed);
  // A neutral lane of an unused slot may fall.
  const bool may_fall = ranks[0][std::min(first, second)] == kLaneNeutral;
  EXPECT(may_fall || bad == std::min(first, second), "seed %u: lane %ld, not %ld", seed,
         static_cast<long>(bad), static_cast<long>(std::min(first, second)));
}

}  // namespace

int main() {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const Tick tick = random_tick(seed, 1 + static_cast<int>(seed % 4));
    for (int64_t num_threads : {1, 2, 3, 31, 128, 1000}) {
      check_pack(tick, seed, num_threads);
      check_unpack(tick, seed, num_threads);
    }
  }
  return 0;
}
