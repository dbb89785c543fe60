// Host memory of a pool: one mapping, private or shared with other processes, that can be pinned
// for the GPU. Not thread-safe: one owner calls it; the bytes themselves may be used from any
// thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hicache/pinning.h"

namespace hicache {

inline constexpr std::size_t kPageBytes = 4096;  // what O_DIRECT and mmap align to
inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

// The distance of objects that O_DIRECT can read and write one by one.
constexpr std::size_t slot_stride(std::size_t object_bytes) {
  return (object_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

enum class Sharing {
  kPrivate,  // a forked child gets a copy on write; none at all once the memory is pinned
  kShared,   // a memfd: children and processes that attach it see the same bytes
};

enum class HugePages {
  kNever,   // 4 KiB pages
  kAdvise,  // transparent huge pages where the kernel has them; it may give small ones
  k2MiB,    // from the machine's pool of reserved huge pages, or CapacityError
  k1GiB,
};

struct HostMemoryOptions {
  Sharing sharing = Sharing::kPrivate;
  HugePages huge_pages = HugePages::kAdvise;
  int numa_node = -1;   // -1: wherever the threads that touch it first run
  int num_threads = 0;  // of the first touch; 0: as many as there are CPUs, at most 16
};

struct MemoryFile {
  int fd;  // of another HostMemory, through a fork, a socket or /proc
};

class HostMemory {
 public:
  // Maps num_bytes > 0, rounded up to whole pages, binds them to the NUMA node and touches all of
  // them. The bytes are zero. Throws CapacityError if the kernel does not give the memory.
  HostMemory(std::size_t num_bytes, const HostMemoryOptions& options);
  // Maps what another HostMemory shares; the descriptor stays the caller's. LayoutError if it is no
  // memory file of num_bytes rounded up, LifetimeError if its owner could shrink it under us.
  HostMemory(MemoryFile file, std::size_t num_bytes);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  std::byte* data() const noexcept { return data_; }  // null after close()
  std::size_t size() const noexcept { return size_; }
  std::size_t mapped_bytes() const noexcept { return mapped_bytes_; }
  int fd() const noexcept { return fd_; }  // of the memory file; -1 if private or closed
  bool is_pinned() const noexcept { return !pinning_.regions().empty(); }
  const std::vector<PinnedRegion>& regions() const noexcept { return pinning_.regions(); }

  // Pinning::pin of the whole mapping. Private memory is not inherited by children from then on.
  void pin(const PinApi& api, std::size_t object_bytes, std::size_t max_chunk_bytes,
           int num_halvings);
  void unpin();
  // Keeps the pages in RAM without a GPU (mlock); CapacityError, which RLIMIT_MEMLOCK causes.
  void lock();
  // unpin() and unmap; a second close does nothing. The memory is unmapped also if unpin() throws.
  void close();

 private:
  void map(std::size_t page_bytes);  // 4 KiB, or the size of the reserved huge pages
  void place(const HostMemoryOptions& options);
  void unmap() noexcept;

  std::byte* data_ = nullptr;
  std::size_t size_;
  std::size_t mapped_bytes_;
  int fd_ = -1;
  pid_t owner_;
  bool hidden_from_children_ = false;  // MADV_DONTFORK
  Pinning pinning_;
};

}  // namespace hicache
