// See nccl_group.h.
#include "hicache/nccl_group.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "hicache/check.h"
#include "hicache/cuda_array.h"

namespace hicache {
namespace {

constexpr auto kSpin = std::chrono::microseconds(20);
constexpr auto kMinPoll = std::chrono::microseconds(50);
constexpr auto kMaxPoll = std::chrono::microseconds(1000);
constexpr auto kLookEvery = std::chrono::milliseconds(10);

}  // namespace

struct TickBuffers {
  TickBuffers(CudaApi& cuda, const LaneSchema& schema, int num_rows)
      : mine(cuda, MemoryKind::kDevice, num_lanes(schema)),
        rows(cuda, MemoryKind::kDevice, num_rows * num_lanes(schema)),
        agreed(cuda, MemoryKind::kDevice, num_lanes(schema)),
        num_ticks(cuda, MemoryKind::kDevice, 1),
        staged(cuda, MemoryKind::kPinned, kTickRing * num_lanes(schema)),
        outcomes(cuda, MemoryKind::kPinned, kTickRing),
        lanes(cuda, MemoryKind::kPinned, kTickRing * num_lanes(schema)),
        slots(cuda, MemoryKind::kPinned, int64_t{kTickRing} * schema.num_slots) {
    for (int i = 0; i < kTickRing; ++i) outcomes.get()[i].sequence = 0;
  }

  CudaArray<int64_t> mine;
  CudaArray<int64_t> rows;  // what NCCL writes: [num_rows, num_lanes]
  CudaArray<int64_t> agreed;
  CudaArray<uint64_t> num_ticks;
  CudaArray<int64_t> staged;  // [kTickRing, num_lanes]
  CudaArray<TickOutcome> outcomes;
  CudaArray<int64_t> lanes;
  CudaArray<AgreedRecord> slots;
};

NcclGroup::NcclGroup(std::shared_ptr<CudaApi> cuda, const NcclLibrary& nccl,
                     const LaneSchema& schema, void* comm, int device, CudaStream stream,
                     NcclReduction reduction)
    : cuda_(std::move(cuda)),
      nccl_(nccl),
      schema_(schema),
      comm_(comm),
      device_(device),
      stream_(stream),
      reduction_(reduction) {
  HICACHE_CHECK(kAgreement, comm != nullptr, "comm=0 is no communicator");
  require_device(*cuda_, device);
  const DeviceScope scope(*cuda_, device);
  HICACHE_CHECK(kCuda, !cuda_->is_capturing(stream), "a group cannot be made in a capture");
  rank_ = nccl_.comm_rank(comm);
  size_ = nccl_.comm_size(comm);
  const bool gathers = reduction == NcclReduction::kAllGather;
  buffers_ = std::make_unique<TickBuffers>(*cuda_, schema, gathers ? size_ : 1);
  cuda_->preload_ticks();
  // A zero that nobody writes before this copy has run.
  cuda_->copy(buffers_->num_ticks.get(), &buffers_->outcomes.get()[0].sequence, sizeof(uint64_t),
              stream);
}

NcclGroup::~NcclGroup() {
  // The stream may still read and write the buffers. If a peer is gone it never finishes: then they
  // are leaked, which is better than a hang or than memory that a kernel still writes.
  bool is_done = num_issued_ == num_collected_;
  try {
    // A graph may run on another stream, of which nobody has told.
    if (!is_done && !is_captured_) is_done = cuda_->is_idle(stream_);
  } catch (const Error&) {
    // The stream is broken: what it still touches is unknown.
  }
  if (!is_done) buffers_.release();
}

void NcclGroup::check_room() const {
  HICACHE_CHECK(kAgreement, lost_.empty(), "rank ", rank_, ": the group is broken: ", lost_);
  HICACHE_CHECK(kAgreement, num_issued_ - num_collected_ < kDepth, "rank ", rank_, ": ", kDepth,
                " ticks are uncollected already");
}

void NcclGroup::issue(const int64_t* lanes) {
  const DeviceScope scope(*cuda_, device_);
  HICACHE_CHECK(kCuda, !cuda_->is_capturing(stream_), "rank ", rank_,
                ": issue() cannot be captured, its lanes come from the host: issue_records() can");
  check_room();
  const int64_t count = num_lanes(schema_);
  int64_t* staged = buffers_->staged.get() + static_cast<int64_t>(num_issued_ % kTickRing) * count;
  std::memcpy(staged, lanes, count * sizeof(int64_t));
  enqueue([&] { cuda_->copy(buffers_->mine.get(), staged, count * sizeof(int64_t), stream_); });
  ++num_issued_;
}

void NcclGroup::issue_records(const LaneHeader* header, const SlotRecord* slots,
                              const uint8_t* endpoints) {
  const DeviceScope scope(*cuda_, device_);
  const bool is_capturing = cuda_->is_capturing(stream_);
  if (!is_capturing) check_room();
  is_captured_ = is_captured_ || is_capturing;
  const PackArgs pack{schema_, header, slots, endpoints, buffers_->mine.get()};
  enqueue([&] { cuda_->launch(pack, stream_); });
  if (!is_capturing) ++num_issued_;
}

void NcclGroup::check_replay() {
  HICACHE_CHECK(kAgreement, is_captured_, "rank ", rank_, ": no tick was captured");
  check_room();
}

// A tick of which a part was enqueued is one that other ranks have and this one has not.
void NcclGroup::enqueue(const std::function<void()>& pack) {
  try {
    pack();
    reduce_and_unpack();
  } catch (const Error& error) {
    lost_ = error.what();
    throw;
  }
}

void NcclGroup::reduce_and_unpack() {
  const TickBuffers& buffers = *buffers_;
  const int64_t count = num_lanes(schema_);
  const bool gathers = reduction_ == NcclReduction::kAllGather;
  if (gathers) {
    nccl_.all_gather(buffers.mine.get(), buffers.rows.get(), count, comm_, stream_);
  } else {
    nccl_.all_reduce_min(buffers.mine.get(), buffers.rows.get(), count, comm_, stream_);
  }
  cuda_->launch(UnpackArgs{schema_, buffers.rows.get(), gathers ? size_ : 1, buffers.agreed.get(),
                           buffers.mine.get(), buffers.num_ticks.get(), buffers.outcomes.get(),
                           buffers.lanes.get(), buffers.slots.get()},
                stream_);
}

bool NcclGroup::is_there() const {
  if (num_issued_ == num_collected_) return false;
  const uint64_t tick = num_collected_ + 1;
  uint64_t& sequence = buffers_->outcomes.get()[tick % kTickRing].sequence;
  return std::atomic_ref<uint64_t>(sequence).load(std::memory_order_acquire) == tick;
}

// Now and then: each look is a call into NCCL and one into the driver.
void NcclGroup::look_for_errors() {
  const auto now = Clock::now();
  if (now < next_look_ || !lost_.empty()) return;
  next_look_ = now + kLookEvery;
  lost_ = nccl_.async_error(comm_);
  if (!lost_.empty()) return;
  try {
    const DeviceScope scope(*cuda_, device_);
    if (!cuda_->is_capturing(stream_)) cuda_->is_idle(stream_);
  } catch (const Error& error) {
    lost_ = error.what();
  }
}

bool NcclGroup::ready() {
  if (num_issued_ == num_collected_) return false;
  if (is_there()) return true;
  look_for_errors();
  return !lost_.empty();
}

bool NcclGroup::wait(double max_s) {
  HICACHE_CHECK(kAgreement, num_issued_ > num_collected_, "rank ", rank_, ": no tick is issued");
  const auto start = Clock::now();
  const auto deadline =
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(max_s));
  while (!is_there()) {
    look_for_errors();
    HICACHE_CHECK(kAgreement, lost_.empty() || is_there(), "tick ", num_collected_, ", rank ",
                  rank_, " of ", size_, ": the group is broken, a peer may be lost: ", lost_);
    const auto now = Clock::now();
    if (now >= deadline) return false;
    if (now < start + kSpin) continue;
    // Whoever has waited long may wait a little longer, and leaves its core to others.
    std::this_thread::sleep_for(std::clamp<Clock::duration>((now - start) / 8, kMinPoll, kMaxPoll));
  }
  return true;
}

LaneVerdict NcclGroup::collect(int64_t* lanes, AgreedRecord* slots) {
  HICACHE_CHECK(kAgreement, is_there(), "tick ", num_collected_, " is not there");
  ++num_collected_;
  const auto entry = static_cast<int64_t>(num_collected_ % kTickRing);
  const int64_t count = num_lanes(schema_);
  std::memcpy(lanes, buffers_->lanes.get() + entry * count, count * sizeof(int64_t));
  if (slots != nullptr) {
    std::memcpy(slots, buffers_->slots.get() + entry * schema_.num_slots,
                schema_.num_slots * sizeof(AgreedRecord));
  }
  return buffers_->outcomes.get()[entry].verdict;
}

}  // namespace hicache
