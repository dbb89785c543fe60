// Registration of host memory with CUDA, in chunks, and the record of what is registered.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <vector>

namespace hicache {

// Drivers refuse one registration of 512 GiB and more (they keep 16 bytes per 4 KiB in one kernel
// allocation); 64 GiB stays far below that and keeps the number of registrations small.
inline constexpr std::size_t kMaxChunkBytes = std::size_t{64} << 30;

// The functions that pin memory, as a table: CUDA's own, or a recording one in the tests.
// They return 0 for success, else a code that describe() turns into words.
struct PinApi {
  int (*pin)(void* address, std::size_t num_bytes) = nullptr;
  int (*unpin)(void* address) = nullptr;
  int (*clear_error)() =
      nullptr;  // cudaGetLastError: a failed call must not surface in a later one
  const char* (*describe)(int code) = nullptr;  // may be null
};

// Null when the module was built without CUDA, or there is no driver or no device.
const PinApi* cuda_pin_api();

// One registration; a batched copy must not span two of them.
struct PinnedRegion {
  std::byte* address;
  std::size_t num_bytes;
};

// All that this process has registered, ascending. From any thread.
std::vector<PinnedRegion> pinned_regions();

// What this process has registered of [begin, begin + num_bytes), ascending and cut to that range:
// where a batched copy has to be split. From any thread.
std::vector<PinnedRegion> pinned_regions_in(const void* begin, std::size_t num_bytes);

// The chunk size that Pinning starts with: the largest multiple of lcm(object_bytes, 4 KiB) that is
// at most max_chunk_bytes, but at least one such unit.
std::size_t pin_chunk_bytes(std::size_t object_bytes, std::size_t max_chunk_bytes);

struct PinRequest {
  std::byte* data;
  std::size_t num_bytes;        // a multiple of 4 KiB, as `data` is
  std::size_t object_bytes;     // no chunk ends inside of an object
  std::size_t max_chunk_bytes;  // of the first try
  int num_halvings;             // how often smaller chunks are tried after a failure
};

// The registrations of one piece of memory. Not thread-safe: its owner calls it.
class Pinning {
 public:
  Pinning() = default;
  ~Pinning() { unpin_all(); }
  Pinning(const Pinning&) = delete;
  Pinning& operator=(const Pinning&) = delete;

  const std::vector<PinnedRegion>& regions() const noexcept { return regions_; }

  // Pins everything in chunks. If one fails, those before it are unpinned again, the error is
  // cleared and smaller chunks are tried; then CudaError. `api` must stay valid until unpin().
  void pin(const PinApi& api, const PinRequest& request);
  // Unpins exactly the regions that pin() registered; CudaError if one refuses (all are tried).
  void unpin();
  // The same without a throw: the first code that was not 0. A forked child, which inherits the
  // object but not the registrations, only forgets them.
  int unpin_all() noexcept;

 private:
  int pin_chunks(const PinRequest& request, std::size_t chunk_bytes);  // rolled back if not 0

  PinApi api_{};
  pid_t owner_ = 0;
  std::vector<PinnedRegion> regions_;
};

}  // namespace hicache
