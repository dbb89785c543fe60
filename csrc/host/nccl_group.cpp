// See nccl_group.h.
#include "hicache/nccl_group.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "hicache/cuda_check.h"

namespace hicache {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kSpin = std::chrono::microseconds(20);
constexpr auto kPoll = std::chrono::microseconds(50);
constexpr auto kAsyncErrorEvery = std::chrono::milliseconds(10);

struct DeviceFree {
  void operator()(void* memory) const { cudaFree(memory); }
};
struct HostFree {
  void operator()(void* memory) const { cudaFreeHost(memory); }
};
template <typename T>
using DeviceArray = std::unique_ptr<T[], DeviceFree>;
template <typename T>
using PinnedArray = std::unique_ptr<T[], HostFree>;

template <typename T>
DeviceArray<T> device_array(int64_t count) {
  void* memory = nullptr;
  HICACHE_CUDA_CHECK(cudaMalloc(&memory, count * sizeof(T)));
  return DeviceArray<T>(static_cast<T*>(memory));
}

template <typename T>
PinnedArray<T> pinned_array(int64_t count) {
  void* memory = nullptr;
  HICACHE_CUDA_CHECK(
      cudaHostAlloc(&memory, count * sizeof(T), cudaHostAllocMapped | cudaHostAllocPortable));
  std::memset(memory, 0, count * sizeof(T));
  return PinnedArray<T>(static_cast<T*>(memory));
}

template <typename T>
T* on_device(const PinnedArray<T>& pinned) {
  void* address = nullptr;
  HICACHE_CUDA_CHECK(cudaHostGetDevicePointer(&address, pinned.get(), 0));
  return static_cast<T*>(address);
}

}  // namespace

struct TickBuffers {
  TickBuffers(const LaneSchema& schema, CUstream_st* stream)
      : mine(device_array<int64_t>(num_lanes(schema))),
        agreed(device_array<int64_t>(num_lanes(schema))),
        num_ticks(device_array<uint64_t>(1)),
        staged(pinned_array<int64_t>(kTickRing * num_lanes(schema))),
        outcomes(pinned_array<TickOutcome>(kTickRing)),
        lanes(pinned_array<int64_t>(kTickRing * num_lanes(schema))),
        slots(pinned_array<AgreedRecord>(kTickRing * schema.num_slots)) {
    HICACHE_CUDA_CHECK(cudaMemsetAsync(num_ticks.get(), 0, sizeof(uint64_t), stream));
  }

  DeviceArray<int64_t> mine;
  DeviceArray<int64_t> agreed;
  DeviceArray<uint64_t> num_ticks;
  PinnedArray<int64_t> staged;  // [kTickRing, num_lanes]
  PinnedArray<TickOutcome> outcomes;
  PinnedArray<int64_t> lanes;
  PinnedArray<AgreedRecord> slots;
};

NcclGroup::NcclGroup(const NcclLibrary& nccl, const LaneSchema& schema, void* comm, int device,
                     CUstream_st* stream)
    : nccl_(nccl), schema_(schema), comm_(comm), device_(device), stream_(stream) {
  HICACHE_CHECK(kAgreement, comm != nullptr, "comm=0 is no communicator");
  HICACHE_CUDA_CHECK(cudaSetDevice(device));
  rank_ = nccl_.comm_rank(comm);
  size_ = nccl_.comm_size(comm);
  buffers_ = std::make_unique<TickBuffers>(schema, stream);
}

NcclGroup::~NcclGroup() {
  // The stream may still read and write the buffers. If a peer is gone it never finishes: then they
  // are leaked, which is better than a hang or than memory that a kernel still writes.
  const bool done = num_issued_ == num_collected_ || cudaStreamQuery(stream_) == cudaSuccess;
  if (!done) buffers_.release();
}

void NcclGroup::check_room() const {
  HICACHE_CHECK(kAgreement, num_issued_ - num_collected_ < kDepth, "rank ", rank_, ": ", kDepth,
                " ticks are uncollected already");
  HICACHE_CUDA_CHECK(cudaSetDevice(device_));
}

void NcclGroup::issue(const int64_t* lanes) {
  check_room();
  const int64_t count = num_lanes(schema_);
  int64_t* staged = buffers_->staged.get() + static_cast<int64_t>(num_issued_ % kTickRing) * count;
  std::memcpy(staged, lanes, count * sizeof(int64_t));
  HICACHE_CUDA_CHECK(cudaMemcpyAsync(buffers_->mine.get(), staged, count * sizeof(int64_t),
                                     cudaMemcpyHostToDevice, stream_));
  reduce_and_unpack();
}

void NcclGroup::issue_records(const LaneHeader* header, const SlotRecord* slots,
                              const uint8_t* endpoints) {
  check_room();
  launch_pack_lanes({schema_, header, slots, endpoints, buffers_->mine.get()}, stream_);
  reduce_and_unpack();
}

void NcclGroup::reduce_and_unpack() {
  nccl_.all_reduce_min(buffers_->mine.get(), buffers_->agreed.get(), num_lanes(schema_), comm_,
                       stream_);
  launch_unpack_lanes(
      {schema_, buffers_->agreed.get(), buffers_->mine.get(), buffers_->num_ticks.get(),
       on_device(buffers_->outcomes), on_device(buffers_->lanes), on_device(buffers_->slots)},
      stream_);
  ++num_issued_;
}

bool NcclGroup::ready() const {
  if (num_issued_ == num_collected_) return false;
  const uint64_t tick = num_collected_ + 1;
  uint64_t& sequence = buffers_->outcomes[tick % kTickRing].sequence;
  return std::atomic_ref<uint64_t>(sequence).load(std::memory_order_acquire) == tick;
}

bool NcclGroup::wait(double max_s) {
  HICACHE_CHECK(kAgreement, num_issued_ > num_collected_, "rank ", rank_, ": no tick is issued");
  const auto start = Clock::now();
  const auto deadline =
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(max_s));
  auto next_look = start + kAsyncErrorEvery;
  while (!ready()) {
    const auto now = Clock::now();
    if (now >= deadline) return false;
    if (now >= next_look) {
      next_look = now + kAsyncErrorEvery;
      const std::string error = nccl_.async_error(comm_);
      HICACHE_CHECK(kAgreement, error.empty(), "tick ", num_collected_, ", rank ", rank_, " of ",
                    size_, ": a peer is lost, NCCL says: ", error);
      const cudaError_t code = cudaStreamQuery(stream_);
      if (code != cudaErrorNotReady) HICACHE_CUDA_CHECK(code);
    }
    if (now > start + kSpin) std::this_thread::sleep_for(kPoll);
  }
  return true;
}

LaneVerdict NcclGroup::collect(int64_t* lanes, AgreedRecord* slots) {
  HICACHE_CHECK(kAgreement, ready(), "tick ", num_collected_, " is not there");
  ++num_collected_;
  const auto entry = static_cast<int64_t>(num_collected_ % kTickRing);
  const int64_t count = num_lanes(schema_);
  std::memcpy(lanes, buffers_->lanes.get() + entry * count, count * sizeof(int64_t));
  if (slots != nullptr) {
    std::memcpy(slots, buffers_->slots.get() + entry * schema_.num_slots,
                schema_.num_slots * sizeof(AgreedRecord));
  }
  return buffers_->outcomes[entry].verdict;
}

}  // namespace hicache
