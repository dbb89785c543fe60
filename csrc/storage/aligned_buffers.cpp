#include "hicache/storage/aligned_buffers.h"

#include <algorithm>

#include "hicache/check.h"

namespace hicache {

AlignedBuffers::AlignedBuffers(size_t buffer_bytes, size_t num_buffers)
    : buffer_bytes_(slot_stride(buffer_bytes)),
      memory_(buffer_bytes_ * num_buffers, {.huge_pages = HugePages::kAdvise, .num_threads = 1}) {
  free_.reserve(num_buffers);
  for (size_t i = num_buffers; i > 0; --i)
    free_.push_back(memory_.data() + (i - 1) * buffer_bytes_);
}

AlignedBuffers::Lease AlignedBuffers::take(size_t most) {
  HICACHE_CHECK(kStorage, most > 0, "a lease of no buffers");
  std::unique_lock lock(mutex_);
  given_back_.wait(lock, [&] { return !free_.empty(); });
  const size_t count = std::min(most, free_.size());
  std::vector<std::byte*> taken(free_.end() - static_cast<std::ptrdiff_t>(count), free_.end());
  std::reverse(taken.begin(), taken.end());  // ascending, where nobody else took any
  free_.resize(free_.size() - count);
  return Lease(this, std::move(taken));
}

void AlignedBuffers::give_back(const std::vector<std::byte*>& buffers) noexcept {
  if (buffers.empty()) return;
  {
    std::lock_guard lock(mutex_);
    free_.insert(free_.end(), buffers.rbegin(), buffers.rend());
  }
  given_back_.notify_all();
}

}  // namespace hicache
