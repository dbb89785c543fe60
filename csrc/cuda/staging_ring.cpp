// See staging_ring.h.
#include "hicache/staging_ring.h"

#include <utility>

#include "hicache/check.h"

namespace hicache {
namespace {

constexpr size_t kSlotAlign = 256;

}  // namespace

StagingRing::StagingRing(std::shared_ptr<CudaApi> cuda, int device, std::byte* memory,
                         size_t num_bytes)
    : cuda_(std::move(cuda)),
      device_(device),
      slot_bytes_(num_bytes / kNumSlots / kSlotAlign * kSlotAlign) {
  HICACHE_CHECK(kLayout, slot_bytes_ > 0, "staging memory of ", num_bytes,
                " bytes is too small: ", kNumSlots, " slots of at least ", kSlotAlign);
  require_device(*cuda_, device);
  const DeviceScope scope(*cuda_, device);
  try {
    if (memory == nullptr) memory = own_memory_ = cuda_->allocate_device(num_bytes);
    dma_stream_ = cuda_->create_stream(StreamPriority::kHigh);
    for (int i = 0; i < kNumSlots; ++i) {
      slots_[i].memory = memory + static_cast<size_t>(i) * slot_bytes_;
      slots_[i].filled = cuda_->create_event();
      slots_[i].free = cuda_->create_event();
    }
  } catch (...) {
    release();
    throw;
  }
}

// Whoever still uses a slot has recorded its event.
StagingRing::~StagingRing() {
  for (const Slot& slot : slots_) cuda_->drain(slot.free);
  release();
}

void StagingRing::release() noexcept {
  for (const Slot& slot : slots_)
    for (const CudaEvent event : {slot.filled, slot.free})
      if (event != nullptr) cuda_->destroy(event);
  if (dma_stream_ != nullptr) cuda_->destroy(dma_stream_);
  if (own_memory_ != nullptr) cuda_->free_device(own_memory_);
}

}  // namespace hicache
