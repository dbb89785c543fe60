// See copy_resources.h.
#include "copy_resources.h"

#include <algorithm>
#include <bit>

#include "hicache/staging_ring.h"

namespace hicache {
namespace {

constexpr size_t kMinBlockBytes = 4096;

// It owns the resources, so they cannot own it.
std::shared_ptr<CudaApi> borrowed(CudaApi& cuda) {
  return {&cuda, [](CudaApi*) {}};
}

}  // namespace

UploadBlock CopyResources::take_block(int device, size_t num_bytes) {
  const size_t size = std::bit_ceil(std::max(num_bytes, kMinBlockBytes));
  {
    std::lock_guard lock(mutex_);
    const auto found = blocks_.find({device, size});
    if (found != blocks_.end()) return blocks_.extract(found).mapped();
  }
  std::byte* const device_memory = cuda_.allocate_device(size);
  try {
    return {cuda_.allocate_pinned(size), device_memory, size};
  } catch (...) {
    cuda_.free_device(device_memory);
    throw;
  }
}

void CopyResources::give_block(int device, const UploadBlock& block) noexcept {
  std::lock_guard lock(mutex_);
  blocks_.emplace(std::pair{device, block.num_bytes}, block);
}

CudaStream CopyResources::stream(int device, StreamPriority priority) {
  std::lock_guard lock(mutex_);
  auto found = streams_.find({device, priority});
  if (found == streams_.end())
    found = streams_.emplace(std::pair{device, priority}, cuda_.create_stream(priority)).first;
  return found->second;
}

std::shared_ptr<StagingRing> CopyResources::ring(int device) {
  std::lock_guard lock(mutex_);
  std::shared_ptr<StagingRing>& ring = rings_[device];
  if (ring == nullptr)
    ring = std::make_shared<StagingRing>(borrowed(cuda_), device, nullptr, kStagingBytes);
  return ring;
}

void CopyResources::prepare(int device, CopyKernel kernel) {
  std::lock_guard lock(mutex_);
  if (prepared_.contains({device, kernel})) return;
  cuda_.preload(kernel);
  prepared_.emplace(device, kernel);
}

}  // namespace hicache
