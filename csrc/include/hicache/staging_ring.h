// The memory on the device through which staged copies go, slot by slot.
#pragma once

#include <memory>
#include <mutex>

#include "hicache/cuda_api.h"

namespace hicache {

constexpr int kNumSlots = 2;  // one is on the link while a kernel works on the other
constexpr size_t kStagingBytes = size_t{64} << 20;  // of the ring that a device has of its own

// Copies on any streams share it: a slot's event tells when whoever used it last is done with it.
class StagingRing {
 public:
  // `memory` stays the caller's; nullptr: the ring has its own. num_bytes is of all slots together.
  StagingRing(std::shared_ptr<CudaApi> cuda, int device, std::byte* memory, size_t num_bytes);
  ~StagingRing();
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  int device() const { return device_; }
  size_t slot_bytes() const { return slot_bytes_; }

  struct Slot {
    std::byte* memory;
    CudaEvent filled;
    CudaEvent free;
  };

  // Held while a copy is enqueued: the slots of two copies do not mix.
  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }
  const Slot& next_slot() { return slots_[next_++ % kNumSlots]; }
  CudaStream dma_stream() const { return dma_stream_; }

 private:
  void release() noexcept;

  std::shared_ptr<CudaApi> cuda_;
  int device_;
  size_t slot_bytes_;
  std::byte* own_memory_ = nullptr;
  CudaStream dma_stream_ = nullptr;
  Slot slots_[kNumSlots] = {};
  unsigned next_ = 0;
  std::mutex mutex_;
};

}  // namespace hicache
