// The whole NcclGroup on the simulated GPU, against a libnccl whose peer answers with lanes of the
// test's choice. Argument: the path of that library.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include "../cpp/lane_cases.h"
#include "hicache/check.h"
#include "hicache/nccl_group.h"

using namespace hicache;
using namespace hicache::test;

namespace {

int g_comm;  // the fake never looks at it

template <typename T>
T* symbol(void* library, const char* name) {
  auto* found = static_cast<T*>(::dlsym(library, name));
  EXPECT(found != nullptr, "%s", name);
  return found;
}

template <typename Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void check_tick(NcclGroup* group, const Tick& tick, uint32_t seed, bool from_records) {
  const std::vector<int64_t> mine = tick.pack(0), peer = tick.pack(1);
  const std::vector<int64_t> agreed = min_over({mine, peer});
  std::vector<AgreedRecord> want(tick.schema.num_slots), got(tick.schema.num_slots);
  std::vector<int64_t> lanes(agreed.size());
  unpack_body(tick.schema, agreed.data(), mine.data(), want.data(), 0, 1);
  EXPECT(!group->ready(), "seed %u", seed);
  LaneHeader* header = nullptr;
  SlotRecord* slots = nullptr;
  uint8_t* endpoints = nullptr;
  if (from_records) {
    cudaMallocHost(&header, sizeof(LaneHeader));
    cudaMallocHost(&slots, tick.slots[0].size() * sizeof(SlotRecord));
    *header = tick.header;
    std::copy(tick.slots[0].begin(), tick.slots[0].end(), slots);
    cudaMallocHost(&endpoints, tick.endpoints[0].size());
    std::copy(tick.endpoints[0].begin(), tick.endpoints[0].end(), endpoints);
    group->issue_records(header, slots, endpoints);
  } else {
    group->issue(mine.data());
  }
  EXPECT(group->wait(1.0) && group->ready(), "seed %u", seed);
  const LaneVerdict verdict = group->collect(lanes.data(), got.data());
  EXPECT(verdict.lane == -1 && lanes == agreed, "seed %u lane %ld", seed, (long)verdict.lane);
  for (int slot_idx = 0; slot_idx < tick.schema.num_slots; ++slot_idx) {
    EXPECT(same_slot(tick.schema, got[slot_idx], want[slot_idx]), "seed %u slot %d", seed,
           slot_idx);
  }
  cudaFreeHost(header);
  cudaFreeHost(slots);
  cudaFreeHost(endpoints);
}

// Ten ticks each way, so that the ring of four outcomes goes round.
void check_ticks(const NcclLibrary& nccl, void* fake) {
  const auto** peer_lanes = symbol<const int64_t*>(fake, "peer_lanes");
  for (uint32_t seed = 0; seed < 3; ++seed) {
    Tick tick = random_tick(seed, 2);
    std::vector<int64_t> peer = tick.pack(1);
    *peer_lanes = peer.data();
    NcclGroup group(nccl, tick.schema, &g_comm, 0, nullptr);
    EXPECT(group.size() == 2 && group.rank() == 0, "comm");
    for (int i = 0; i < 10; ++i) {
      ++tick.header.epoch;
      peer = tick.pack(1);
      *peer_lanes = peer.data();
      check_tick(&group, tick, seed, i % 2 == 0);
    }
  }
}

void check_depth_and_mismatch(const NcclLibrary& nccl, void* fake) {
  const Tick tick = random_tick(5, 2);
  const std::vector<int64_t> mine = tick.pack(0);
  std::vector<int64_t> peer = tick.pack(1), lanes(mine.size());
  *symbol<const int64_t*>(fake, "peer_lanes") = peer.data();
  NcclGroup group(nccl, tick.schema, &g_comm, 0, nullptr);
  EXPECT(error_of([&] { group.wait(0); }).find("no tick is issued") != std::string::npos, "wait");
  group.issue(mine.data());
  peer[kEpochLane] += 3, peer[kEpochLane + 1] = ~peer[kEpochLane];
  group.issue(mine.data());
  EXPECT(error_of([&] { group.issue(mine.data()); }).find("2 ticks") != std::string::npos, "depth");
  EXPECT(group.collect(lanes.data(), nullptr).lane == -1, "the first tick is good");
  const LaneVerdict bad = group.collect(lanes.data(), nullptr);
  EXPECT(bad.lane == kEpochLane && bad.mine == tick.header.epoch && bad.min == bad.mine &&
             bad.max == bad.mine + 3,
         "lane %ld", (long)bad.lane);
}

void check_lost_peer(const NcclLibrary& nccl, void* fake) {
  int* code = symbol<int>(fake, "async_code");
  EXPECT(nccl.async_error(&g_comm).empty(), "no error yet");
  *code = 6;
  EXPECT(nccl.async_error(&g_comm) == "remote error", "%s", nccl.async_error(&g_comm).c_str());
  *code = 0;
  *symbol<int>(fake, "all_reduce_code") = 6;
  const Tick tick = random_tick(7, 1);
  NcclGroup group(nccl, tick.schema, &g_comm, 0, nullptr);
  const std::vector<int64_t> mine = tick.pack(0);
  const std::string text = error_of([&] { group.issue(mine.data()); });
  EXPECT(text == "ncclAllReduce failed with 6: remote error", "%s", text.c_str());
}

}  // namespace

int main(int, char** argv) {
  void* fake = ::dlopen(argv[1], RTLD_NOW);
  EXPECT(fake != nullptr, "%s", ::dlerror());
  *symbol<int>(fake, "fake_move") = 1;
  const NcclLibrary nccl(argv[1]);
  check_ticks(nccl, fake);
  check_depth_and_mismatch(nccl, fake);
  check_lost_peer(nccl, fake);
  return 0;
}
