// Host memory of a pool: an anonymous mapping that can be pinned for the GPU in several
// registrations. Not thread-safe: one owner calls it; the bytes themselves may be used from any
// thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <vector>

namespace hicache {

inline constexpr std::size_t kPageBytes = 4096;  // what O_DIRECT and mmap align to
inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
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

class HostMemory {
 public:
  // Maps num_bytes > 0 (rounded up to 4 KiB), asks for huge pages, then touches everything with
  // num_threads threads (0: as many as there are CPUs, at most 16). The bytes are zero.
  // Throws CapacityError if the kernel does not give the memory.
  HostMemory(std::size_t num_bytes, int num_threads);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  std::byte* data() const noexcept { return data_; }  // null after close()
  std::size_t size() const noexcept { return size_; }
  std::size_t mapped_bytes() const noexcept { return mapped_bytes_; }
  bool is_pinned() const noexcept { return !regions_.empty(); }
  const std::vector<PinnedRegion>& regions() const noexcept { return regions_; }

  // Pins everything in chunks of at most max_chunk_bytes that end on both object and 4 KiB
  // boundaries. If a chunk fails, the chunks before it are unpinned again, the error is cleared
  // and, up to num_halvings times, all is tried again in chunks of half the size; then CudaError.
  // `api` must stay valid until unpin() or close().
  void pin(const PinApi& api, std::size_t object_bytes, std::size_t max_chunk_bytes,
           int num_halvings);
  // Unpins exactly the regions that pin() registered; CudaError if one refuses (all are tried).
  void unpin();
  // unpin() and unmap; a second close does nothing. The memory is unmapped also if unpin() throws.
  void close();

 private:
  int pin_chunks(std::size_t chunk_bytes);  // 0, or the code of the chunk that failed (rolled back)
  int unpin_all() noexcept;                 // the first code that was not 0
  void unmap() noexcept;

  std::byte* data_ = nullptr;
  std::size_t size_;
  std::size_t mapped_bytes_;
  pid_t owner_;                        // a forked child inherits the object, not the registrations
  bool hidden_from_children_ = false;  // MADV_DONTFORK: pinned memory only
  PinApi api_{};
  std::vector<PinnedRegion> regions_;
};

// The chunk size that pin() starts with: the largest multiple of lcm(object_bytes, 4 KiB) that is
// at most max_chunk_bytes, but at least one such unit.
std::size_t pin_chunk_bytes(std::size_t object_bytes, std::size_t max_chunk_bytes);

}  // namespace hicache
