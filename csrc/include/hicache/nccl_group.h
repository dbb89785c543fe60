// The tick on a GPU: pack, NCCL's MIN and unpack on one stream; the host polls pinned memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "hicache/cuda_lanes.h"
#include "hicache/nccl.h"

namespace hicache {

// Device and pinned buffers of a group; defined in nccl_group.cpp.
struct TickBuffers;

// Calls of one group come from one thread, and those of all groups of a device from the thread
// that launches its other collectives: NCCL wants one order of operations per device.
class NcclGroup {
 public:
  static constexpr int kDepth = 2;  // ticks issued and not yet collected

  // `comm` (ncclComm_t) and `stream` are borrowed. Error(kCuda) without a GPU.
  NcclGroup(const NcclLibrary& nccl, const LaneSchema& schema, void* comm, int device,
            CUstream_st* stream);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  // From lanes that the host has packed; copied before it returns.
  void issue(const int64_t* lanes);
  // From records on the device (or pinned): nothing crosses to the host but the outcome. Read when
  // the stream gets there.
  void issue_records(const LaneHeader* header, const SlotRecord* slots, const uint8_t* endpoints);
  // Whether the oldest uncollected tick is there.
  bool ready() const;
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
  void check_room() const;
  void reduce_and_unpack();

  NcclLibrary nccl_;
  LaneSchema schema_;
  void* comm_;
  int device_;
  CUstream_st* stream_;
  int rank_;
  int size_;
  std::unique_ptr<TickBuffers> buffers_;
  uint64_t num_issued_ = 0;
  uint64_t num_collected_ = 0;
};

}  // namespace hicache
