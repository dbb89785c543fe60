// The pack and unpack kernels with several ranks' buffers in one process; the collective between
// them is a minimum on the CPU. Argument: the number of seeds.
#include <cuda_runtime.h>

#include <cstring>

#include "../../csrc/cuda/lanes.cu"  // the launches, and the kernels for grids of our own
#include "../cpp/lane_cases.h"

using namespace hicache;
using namespace hicache::test;

namespace {

template <typename T>
T* on_device(const std::vector<T>& host) {
  T* memory = nullptr;
  EXPECT(cudaMalloc(&memory, host.size() * sizeof(T)) == cudaSuccess, "cudaMalloc");
  EXPECT(cudaMemcpy(memory, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice) ==
             cudaSuccess,
         "cudaMemcpy");
  return memory;
}

template <typename T>
std::vector<T> to_host(const T* device, size_t count) {
  std::vector<T> host(count);
  EXPECT(cudaMemcpy(host.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess,
         "cudaMemcpy");
  return host;
}

void check_pack(const Tick& tick, uint32_t seed, int rank) {
  const std::vector<int64_t> want = tick.pack(rank);
  LaneHeader* header = on_device(std::vector<LaneHeader>{tick.header});
  SlotRecord* slots = on_device(tick.slots[rank]);
  uint8_t* endpoints = on_device(tick.endpoints[rank]);
  int64_t* lanes = on_device(std::vector<int64_t>(want.size(), kPoison));
  launch_pack_lanes({tick.schema, header, slots, endpoints, lanes}, nullptr);
  EXPECT(to_host(lanes, want.size()) == want, "seed %u rank %d", seed, rank);
  // Any grid, also one with more or fewer threads than slots.
  for (int num_blocks : {1, 5}) {
    int64_t* again = on_device(std::vector<int64_t>(want.size(), kPoison));
    pack_lanes_kernel<<<num_blocks, 32>>>({tick.schema, header, slots, endpoints, again});
    EXPECT(cudaDeviceSynchronize() == cudaSuccess, "launch");
    EXPECT(to_host(again, want.size()) == want, "seed %u blocks %d", seed, num_blocks);
    cudaFree(again);
  }
  for (void* memory : {(void*)header, (void*)slots, (void*)endpoints, (void*)lanes}) {
    cudaFree(memory);
  }
}

struct Unpacked {
  std::vector<TickOutcome> outcomes;
  std::vector<int64_t> lanes;
  std::vector<AgreedRecord> slots;
};

// `rows`: of all ranks, or one that is reduced already. `tick_no` ticks were unpacked before.
Unpacked unpack(const LaneSchema& schema, const std::vector<std::vector<int64_t>>& rows,
                const std::vector<int64_t>& mine, uint64_t tick_no) {
  std::vector<int64_t> all_rows;
  for (const auto& row : rows) all_rows.insert(all_rows.end(), row.begin(), row.end());
  int64_t* device_rows = on_device(all_rows);
  int64_t* device_agreed = on_device(std::vector<int64_t>(mine.size(), kPoison));
  int64_t* device_mine = on_device(mine);
  uint64_t* num_ticks = on_device(std::vector<uint64_t>{tick_no});
  Unpacked out{std::vector<TickOutcome>(kTickRing),
               std::vector<int64_t>(kTickRing * mine.size(), kPoison),
               std::vector<AgreedRecord>(kTickRing * schema.num_slots)};
  std::memset(out.outcomes.data(), 0x5a, kTickRing * sizeof(TickOutcome));
  TickOutcome* outcomes = on_device(out.outcomes);
  int64_t* lanes = on_device(out.lanes);
  AgreedRecord* slots = on_device(out.slots);
  launch_unpack_lanes({schema, device_rows, static_cast<int>(rows.size()), device_agreed,
                       device_mine, num_ticks, outcomes, lanes, slots},
                      nullptr);
  EXPECT(cudaDeviceSynchronize() == cudaSuccess, "launch");
  EXPECT(to_host(num_ticks, 1)[0] == tick_no + 1, "ticks counted");
  out = {to_host(outcomes, kTickRing), to_host(lanes, out.lanes.size()),
         to_host(slots, out.slots.size())};
  for (void* memory : {(void*)device_rows, (void*)device_agreed, (void*)device_mine,
                       (void*)num_ticks, (void*)outcomes, (void*)lanes, (void*)slots}) {
    cudaFree(memory);
  }
  return out;
}

void check_unpack(const Tick& tick, uint32_t seed, const std::vector<std::vector<int64_t>>& rows,
                  const std::vector<int64_t>& mine) {
  const std::vector<int64_t> agreed = min_over(rows);
  std::vector<AgreedRecord> want(tick.schema.num_slots);
  const int64_t bad = unpack_body(tick.schema, agreed.data(), mine.data(), want.data(), 0, 1);
  const uint64_t tick_no = seed;
  const Unpacked got = unpack(tick.schema, rows, mine, tick_no);
  for (int entry = 0; entry < kTickRing; ++entry) {
    const int64_t* lanes = got.lanes.data() + entry * agreed.size();
    if (entry != static_cast<int>((tick_no + 1) % kTickRing)) {  // somebody else's result
      EXPECT(got.outcomes[entry].sequence == static_cast<uint64_t>(kPoison), "seed %u", seed);
      EXPECT(lanes[0] == kPoison && lanes[agreed.size() - 1] == kPoison, "seed %u", seed);
      continue;
    }
    EXPECT(got.outcomes[entry].sequence == tick_no + 1, "seed %u", seed);
    EXPECT(same_verdict(got.outcomes[entry].verdict,
                        lane_verdict(tick.schema, agreed.data(), mine.data(), bad)),
           "seed %u: lane %ld, want %ld", seed, (long)got.outcomes[entry].verdict.lane, (long)bad);
    EXPECT(std::equal(agreed.begin(), agreed.end(), lanes), "seed %u", seed);
    for (int slot_idx = 0; slot_idx < tick.schema.num_slots; ++slot_idx) {
      EXPECT(same_slot(tick.schema, got.slots[entry * tick.schema.num_slots + slot_idx],
                       want[slot_idx]),
             "seed %u slot %d", seed, slot_idx);
    }
  }
}

}  // namespace

int main(int, char** argv) {
  const auto num_seeds = static_cast<uint32_t>(std::atoi(argv[1]));
  for (uint32_t seed = 0; seed < num_seeds; ++seed) {
    const Tick tick = random_tick(seed, 3);
    std::vector<std::vector<int64_t>> ranks;
    for (int rank = 0; rank < 3; ++rank) {
      check_pack(tick, seed, rank);
      ranks.push_back(tick.pack(rank));
    }
    const auto check_ranks = [&] {
      for (const auto& mine : ranks) {
        check_unpack(tick, seed, {min_over(ranks)}, mine);  // behind an all-reduce
        check_unpack(tick, seed, ranks, mine);              // behind an all-gather
      }
    };
    check_ranks();
    // One rank of another opinion: every rank must name the same lane as the CPU does.
    ranks[1][(seed * 7) % ranks[1].size()] -= 1;
    check_ranks();
  }
  std::printf("%u seeds\n", num_seeds);
  return 0;
}
