// The tick on a GPU: pack, NCCL's MIN and unpack on one stream; the host polls pinned memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "hicache/cuda_api.h"
#include "hicache/cuda_lanes.h"
#include "hicache/nccl.h"

namespace hicache {

// Device and pinned buffers of a group; defined in nccl_group.cpp.
struct TickBuffers;

// How the minimum is taken: by NCCL, or by the unpacking kernel over the rows of all ranks. One
// step less on the wire, and more bytes: it depends on the machine which is faster.
enum class NcclReduction { kAllReduce, kAllGather };

// Calls of one group come from one thread, and those of all groups of a device from the thread
// that launches its other collectives: NCCL wants one order of operations per device.
class NcclGroup {
 public:
  static constexpr int kDepth = 2;  // ticks issued and not yet collected

  // `comm` (ncclComm_t) and `stream` are borrowed. Error(kCuda) without a GPU, and while the stream
  // is captured.
  NcclGroup(std::shared_ptr<CudaApi> cuda, const NcclLibrary& nccl, const LaneSchema& schema,
            void* comm, int device, CudaStream stream, NcclReduction reduction);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  // From lanes that the host has packed; copied before it returns. Error(kCuda) while the stream is
  // captured: each replay would send the same lanes.
  void issue(const int64_t* lanes);
  // From records on the device (or pinned): nothing crosses to the host but the outcome. Read when
  // the stream gets there. While the stream is captured this starts no tick; each replay does.
  void issue_records(const LaneHeader* header, const SlotRecord* slots, const uint8_t* endpoints);
  // Before and after the launch of a graph with one captured tick.
  void check_replay();
  void count_replay() { ++num_issued_; }
  // Whether the oldest uncollected tick is there, or wait() would raise.
  bool ready();
  // Waits at most `max_s`. Error(kAgreement) if NCCL reports that a peer is lost.
  bool wait(double max_s);
  // The minimum of a tick that is there, what the device found when it verified it, and (where
  // that is good) what was agreed per slot. `slots` may be null.
  LaneVerdict collect(int64_t* lanes, AgreedRecord* slots);

  const LaneSchema& schema() const { return schema_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  uint64_t num_issued() const { return num_issued_; }
  uint64_t num_collected() const { return num_collected_; }

 private:
  using Clock = std::chrono::steady_clock;

  void check_room() const;
  void enqueue(const std::function<void()>& pack);
  void reduce_and_unpack();
  bool is_there() const;
  void look_for_errors();

  std::shared_ptr<CudaApi> cuda_;
  NcclLibrary nccl_;
  LaneSchema schema_;
  void* comm_;
  int device_;
  CudaStream stream_;
  NcclReduction reduction_;
  int rank_;
  int size_;
  std::unique_ptr<TickBuffers> buffers_;
  uint64_t num_issued_ = 0;
  uint64_t num_collected_ = 0;
  bool is_captured_ = false;  // some graph may still use the buffers
  std::string lost_;          // why no tick will come any more
  Clock::time_point next_look_{};
};

}  // namespace hicache
