// Pinning: chunks forwards, rollback backwards, and the process-wide list of registrations.
#include "hicache/pinning.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <string>

#include "hicache/check.h"
#include "hicache/host_memory.h"

#ifdef HICACHE_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace hicache {
namespace {

// Every registration of this process by its address. Copies on any thread ask, pools change it.
class Registry {
 public:
  void add(const PinnedRegion& region) {
    std::lock_guard lock(mutex_);
    regions_.emplace(region.address, region.num_bytes);
  }

  void remove(const PinnedRegion& region) noexcept {
    std::lock_guard lock(mutex_);
    regions_.erase(region.address);
  }

  std::vector<PinnedRegion> all() {
    std::lock_guard lock(mutex_);
    std::vector<PinnedRegion> found;
    for (const auto& [address, num_bytes] : regions_) found.push_back({address, num_bytes});
    return found;
  }

  std::vector<PinnedRegion> within(std::byte* begin, std::byte* end) {
    std::vector<PinnedRegion> found;
    std::lock_guard lock(mutex_);
    auto region = regions_.upper_bound(begin);
    if (region != regions_.begin()) --region;  // it may reach into the range from before
    for (; region != regions_.end() && region->first < end; ++region) {
      std::byte* const first = std::max(region->first, begin);
      std::byte* const last = std::min(region->first + region->second, end);
      if (first < last) found.push_back({first, static_cast<std::size_t>(last - first)});
    }
    return found;
  }

 private:
  std::mutex mutex_;
  std::map<std::byte*, std::size_t, std::less<>> regions_;
};

// Never destroyed: memory may be unpinned after the statics are gone.
Registry& registry() {
  static auto* const all = new Registry;
  return *all;
}

std::string words(const PinApi& api, int code) {
  std::string text = "code " + std::to_string(code);
  if (api.describe != nullptr) text += std::string(": ") + api.describe(code);
  return text;
}

}  // namespace

std::vector<PinnedRegion> pinned_regions() { return registry().all(); }

std::vector<PinnedRegion> pinned_regions_in(const void* begin, std::size_t num_bytes) {
  auto* const first = static_cast<std::byte*>(const_cast<void*>(begin));
  return registry().within(first, first + num_bytes);
}

std::size_t pin_chunk_bytes(std::size_t object_bytes, std::size_t max_chunk_bytes) {
  // Two registrations must not share a 4 KiB page, and no object may lie in two registrations.
  const std::size_t unit = std::lcm(std::max<std::size_t>(object_bytes, 1), kPageBytes);
  return std::max(max_chunk_bytes / unit, std::size_t{1}) * unit;
}

void Pinning::pin(const PinApi& api, const PinRequest& request) {
  HICACHE_CHECK(kCuda, regions_.empty(), "pin: already pinned in ", regions_.size(), " regions");
  HICACHE_CHECK(kCuda, api.pin && api.unpin && api.clear_error, "pin: a function is null");
  api_ = api;
  owner_ = ::getpid();
  // A chunk never ends inside of an object that is larger than all of the memory, either.
  const std::size_t object_bytes = std::min(request.object_bytes, request.num_bytes);
  std::size_t chunk_bytes = pin_chunk_bytes(object_bytes, request.max_chunk_bytes);
  int code = pin_chunks(request, chunk_bytes);
  for (int i = 0; i < request.num_halvings && code != 0; ++i) {
    const std::size_t half =
        pin_chunk_bytes(object_bytes, std::min(chunk_bytes, request.num_bytes) / 2);
    if (half >= chunk_bytes) break;
    chunk_bytes = half;
    code = pin_chunks(request, chunk_bytes);
  }
  HICACHE_CHECK(kCuda, code == 0, "cannot pin ", request.num_bytes,
                " bytes of host memory, last tried in chunks of ", chunk_bytes,
                " bytes: ", words(api, code));
}

int Pinning::pin_chunks(const PinRequest& request, std::size_t chunk_bytes) {
  // Reserved up front: nothing may throw between a registration and its record.
  regions_.reserve((request.num_bytes + chunk_bytes - 1) / chunk_bytes);
  for (std::size_t at = 0; at < request.num_bytes; at += chunk_bytes) {
    const PinnedRegion region{request.data + at, std::min(chunk_bytes, request.num_bytes - at)};
    const int code = api_.pin(region.address, region.num_bytes);
    if (code != 0) {
      api_.clear_error();
      unpin_all();
      return code;
    }
    regions_.push_back(region);
  }
  for (const auto& region : regions_) registry().add(region);
  return 0;
}

int Pinning::unpin_all() noexcept {
  int first = 0;
  const bool is_child = ::getpid() != owner_;
  // A child leaves the registry alone, too: another thread may have held its lock at the fork.
  for (auto region = regions_.rbegin(); region != regions_.rend() && !is_child; ++region) {
    registry().remove(*region);  // first: a copy must not take it for pinned any more
    const int code = api_.unpin(region->address);
    if (code != 0) {
      api_.clear_error();
      if (first == 0) first = code;
    }
  }
  regions_.clear();
  return first;
}

void Pinning::unpin() {
  const std::size_t num_regions = regions_.size();
  const int code = unpin_all();
  HICACHE_CHECK(kCuda, code == 0, "unpinning ", num_regions,
                " regions of host memory failed: ", words(api_, code));
}

#ifdef HICACHE_WITH_CUDA
const PinApi* cuda_pin_api() {
  int num_devices = 0;
  if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0) {
    cudaGetLastError();
    return nullptr;
  }
  static const PinApi api{
      [](void* address, std::size_t num_bytes) -> int {
        // Portable: for every device's context. Mapped: kernels read and write it directly.
        constexpr unsigned kFlags = cudaHostRegisterPortable | cudaHostRegisterMapped;
        return cudaHostRegister(address, num_bytes, kFlags);
      },
      [](void* address) -> int { return cudaHostUnregister(address); },
      []() -> int { return cudaGetLastError(); },
      [](int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); },
  };
  return &api;
}
#else
const PinApi* cuda_pin_api() { return nullptr; }
#endif

}  // namespace hicache
