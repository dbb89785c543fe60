// HostMemory: map, ask for huge pages, touch in parallel, pin in chunks, and all of it backwards.
#include "hicache/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <system_error>
#include <thread>

#include "hicache/check.h"

#ifdef HICACHE_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace hicache {
namespace {

constexpr int kMaxTouchThreads = 16;
constexpr std::size_t kTouchSliceBytes = std::size_t{64} << 20;

std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

std::size_t checked_size(std::size_t num_bytes) {
  // Half the address space: beyond it the roundings below could wrap around.
  HICACHE_CHECK(kCapacity, num_bytes > 0 && num_bytes <= SIZE_MAX / 2,
                "host memory of num_bytes=", num_bytes, " cannot be mapped");
  return num_bytes;
}

// An anonymous private mapping whose start is a multiple of 2 MiB where it is that large: without
// that, older kernels leave the first and last huge page of every mapping small.
std::byte* map_aligned(std::size_t mapped_bytes) {
  const std::size_t slack = mapped_bytes >= kHugePageBytes ? kHugePageBytes : 0;
  void* base = ::mmap(nullptr, mapped_bytes + slack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  HICACHE_CHECK(kCapacity, base != MAP_FAILED, "mmap of ", mapped_bytes,
                " bytes of host memory failed: ", std::strerror(errno));
  auto* begin = static_cast<std::byte*>(base);
  if (slack == 0) return begin;
  const auto address = reinterpret_cast<std::uintptr_t>(base);
  const std::size_t skip = round_up(address, kHugePageBytes) - address;
  if (skip > 0) ::munmap(begin, skip);
  if (skip < slack) ::munmap(begin + skip + mapped_bytes, slack - skip);
  return begin + skip;
}

// Makes the kernel back [begin, begin + num_bytes) now. Returns 0 or an errno.
int populate(std::byte* begin, std::size_t num_bytes) {
#ifdef MADV_POPULATE_WRITE
  // Says ENOMEM where a plain write would be a signal; unknown to kernels before 5.14.
  if (::madvise(begin, num_bytes, MADV_POPULATE_WRITE) == 0) return 0;
  if (errno != EINVAL) return errno;
#endif
  for (std::size_t at = 0; at < num_bytes; at += kPageBytes) {
    *reinterpret_cast<volatile unsigned char*>(begin + at) = 0;
  }
  return 0;
}

// Slices are handed out by a counter, so that a slow thread does not hold up the others.
int populate_parallel(std::byte* begin, std::size_t num_bytes, int num_threads) {
  const std::size_t num_slices = (num_bytes + kTouchSliceBytes - 1) / kTouchSliceBytes;
  std::atomic<std::size_t> next{0};
  std::atomic<int> failed{0};
  auto work = [&] {
    for (std::size_t i = next++; i < num_slices && failed == 0; i = next++) {
      const std::size_t at = i * kTouchSliceBytes;
      const int code = populate(begin + at, std::min(kTouchSliceBytes, num_bytes - at));
      if (code != 0) failed = code;
    }
  };
  const std::size_t num_helpers = std::min<std::size_t>(num_threads, num_slices) - 1;
  std::vector<std::thread> helpers;
  helpers.reserve(num_helpers);
  try {
    while (helpers.size() < num_helpers) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // No more threads to be had: this one and those that started do the rest.
  }
  work();
  for (auto& helper : helpers) helper.join();
  return failed;
}

int touch_threads(int num_threads) {
  if (num_threads > 0) return num_threads;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxTouchThreads);
}

std::string words(const PinApi& api, int code) {
  std::string text = "code " + std::to_string(code);
  if (api.describe != nullptr) text += std::string(": ") + api.describe(code);
  return text;
}

}  // namespace

std::size_t pin_chunk_bytes(std::size_t object_bytes, std::size_t max_chunk_bytes) {
  // Two registrations must not share a 4 KiB page, and no object may lie in two registrations.
  const std::size_t unit = std::lcm(std::max<std::size_t>(object_bytes, 1), kPageBytes);
  return std::max(max_chunk_bytes / unit, std::size_t{1}) * unit;
}

HostMemory::HostMemory(std::size_t num_bytes, int num_threads)
    : size_(checked_size(num_bytes)),
      mapped_bytes_(round_up(num_bytes, kPageBytes)),
      owner_(::getpid()) {
  data_ = map_aligned(mapped_bytes_);
  // Before the first touch: afterwards only a background daemon would merge the small pages. A
  // kernel without huge pages refuses, and small pages are then what there is.
  ::madvise(data_, mapped_bytes_, MADV_HUGEPAGE);
  const int code = populate_parallel(data_, mapped_bytes_, touch_threads(num_threads));
  if (code != 0) {
    unmap();
    raise(ErrorKind::kCapacity, "the kernel gave no pages for ", num_bytes,
          " bytes of host memory: ", std::strerror(code));
  }
}

HostMemory::~HostMemory() {
  unpin_all();
  unmap();
}

void HostMemory::pin(const PinApi& api, std::size_t object_bytes, std::size_t max_chunk_bytes,
                     int num_halvings) {
  HICACHE_CHECK(kCuda, data_ != nullptr, "pin: the host memory is closed");
  HICACHE_CHECK(kCuda, regions_.empty(), "pin: already pinned in ", regions_.size(), " regions");
  HICACHE_CHECK(kCuda, api.pin && api.unpin && api.clear_error, "pin: a function is null");
  api_ = api;
  std::size_t chunk_bytes = pin_chunk_bytes(object_bytes, max_chunk_bytes);
  int code = pin_chunks(chunk_bytes);
  for (int i = 0; i < num_halvings && code != 0; ++i) {
    const std::size_t half =
        pin_chunk_bytes(object_bytes, std::min(chunk_bytes, mapped_bytes_) / 2);
    if (half >= chunk_bytes) break;
    chunk_bytes = half;
    code = pin_chunks(chunk_bytes);
  }
  HICACHE_CHECK(kCuda, code == 0, "cannot pin ", mapped_bytes_,
                " bytes of host memory, last tried in chunks of ", chunk_bytes,
                " bytes: ", words(api, code));
  // With a child that shares the pages copy-on-write, the parent's next write can get a copy while
  // the GPU keeps the original (kernels that do not copy pinned pages at fork).
  ::madvise(data_, mapped_bytes_, MADV_DONTFORK);
  hidden_from_children_ = true;
}

int HostMemory::pin_chunks(std::size_t chunk_bytes) {
  // Reserved up front: nothing may throw between a registration and its record.
  regions_.reserve((mapped_bytes_ + chunk_bytes - 1) / chunk_bytes);
  for (std::size_t at = 0; at < mapped_bytes_; at += chunk_bytes) {
    const PinnedRegion region{data_ + at, std::min(chunk_bytes, mapped_bytes_ - at)};
    const int code = api_.pin(region.address, region.num_bytes);
    if (code != 0) {
      api_.clear_error();
      unpin_all();
      return code;
    }
    regions_.push_back(region);
  }
  return 0;
}

int HostMemory::unpin_all() noexcept {
  int first = 0;
  const bool is_child = ::getpid() != owner_;
  for (auto region = regions_.rbegin(); region != regions_.rend() && !is_child; ++region) {
    const int code = api_.unpin(region->address);
    if (code != 0) {
      api_.clear_error();
      if (first == 0) first = code;
    }
  }
  regions_.clear();
  return first;
}

void HostMemory::unpin() {
  const std::size_t num_regions = regions_.size();
  const int code = unpin_all();
  if (hidden_from_children_ && ::getpid() == owner_) {
    ::madvise(data_, mapped_bytes_, MADV_DOFORK);
    hidden_from_children_ = false;
  }
  HICACHE_CHECK(kCuda, code == 0, "unpinning ", num_regions,
                " regions of host memory failed: ", words(api_, code));
}

void HostMemory::close() {
  const std::size_t num_regions = regions_.size();
  const int code = unpin_all();
  unmap();
  HICACHE_CHECK(kCuda, code == 0, "unpinning ", num_regions,
                " regions of host memory failed (it is unmapped): ", words(api_, code));
}

void HostMemory::unmap() noexcept {
  // In a child the range of a hidden mapping may be somebody else's by now.
  const bool is_ours = !hidden_from_children_ || ::getpid() == owner_;
  if (data_ != nullptr && is_ours) ::munmap(data_, mapped_bytes_);
  data_ = nullptr;
  hidden_from_children_ = false;
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
