// HostMemory: a mapping or a memory file, placed, touched in parallel, pinned, and all of it
// backwards.
#include "hicache/host_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <climits>
#include <cstring>
#include <exception>

#include "hicache/check.h"
#include "hicache/thread_pool.h"

namespace hicache {
namespace {

constexpr int kMaxTouchThreads = 16;
constexpr std::size_t kTouchSliceBytes = std::size_t{64} << 20;
constexpr int kMaxNodes = 1024;  // what kernels are built for at most
// Nobody changes the size of the file again: a page beyond its end would be a SIGBUS.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

// What the mapping is made of: reserved huge pages, or 4 KiB, which may become transparent ones.
std::size_t page_bytes_of(HugePages huge_pages) {
  if (huge_pages == HugePages::k2MiB) return kHugePageBytes;
  return huge_pages == HugePages::k1GiB ? std::size_t{1} << 30 : kPageBytes;
}

// The size among the flags of mmap and memfd_create: its logarithm, at the same place in both.
unsigned huge_page_flag(std::size_t page_bytes) {
  return static_cast<unsigned>(std::countr_zero(page_bytes)) << MFD_HUGE_SHIFT;
}

std::size_t checked_size(std::size_t num_bytes) {
  // Half the address space: beyond it the roundings below could wrap around.
  HICACHE_CHECK(kCapacity, num_bytes > 0 && num_bytes <= SIZE_MAX / 2,
                "host memory of num_bytes=", num_bytes, " cannot be mapped");
  return num_bytes;
}

// Address space that is nobody's yet, at a multiple of `alignment` (a power of two).
std::byte* reserve(std::size_t num_bytes, std::size_t alignment) {
  const std::size_t slack = num_bytes >= alignment ? alignment : 0;
  void* base = ::mmap(nullptr, num_bytes + slack, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  HICACHE_CHECK(kCapacity, base != MAP_FAILED, "mmap of ", num_bytes,
                " bytes of address space failed: ", std::strerror(errno));
  auto* begin = static_cast<std::byte*>(base);
  if (slack == 0) return begin;
  const auto address = reinterpret_cast<std::uintptr_t>(base);
  const std::size_t skip = round_up(address, alignment) - address;
  if (skip > 0) ::munmap(begin, skip);
  if (skip < slack) ::munmap(begin + skip + num_bytes, slack - skip);
  return begin + skip;
}

int create_memory_file(std::size_t num_bytes, std::size_t page_bytes) {
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (page_bytes > kPageBytes) flags |= MFD_HUGETLB | huge_page_flag(page_bytes);
  const int fd = ::memfd_create("hicache", flags);
  HICACHE_CHECK(kCapacity, fd >= 0, "memfd_create failed: ", std::strerror(errno));
  // Mode 0600: who may open it through /proc is this user alone.
  if (::fchmod(fd, S_IRUSR | S_IWUSR) != 0 || ::ftruncate(fd, static_cast<off_t>(num_bytes)) != 0 ||
      ::fcntl(fd, F_ADD_SEALS, kSeals) != 0) {
    const int code = errno;
    ::close(fd);
    raise(ErrorKind::kCapacity, "a memory file of ", num_bytes,
          " bytes failed: ", std::strerror(code));
  }
  return fd;
}

// The raw system call, since libnuma is one more thing to install. 0 or an errno.
int bind_to_node(std::byte* begin, std::size_t num_bytes, int node) {
  constexpr int kBits = sizeof(unsigned long) * CHAR_BIT;
  unsigned long nodes[kMaxNodes / kBits] = {};
  if (node >= kMaxNodes) return EINVAL;
  nodes[node / kBits] = 1ul << node % kBits;
  // The kernel takes one bit less than it is told.
  return ::syscall(SYS_mbind, begin, num_bytes, MPOL_BIND, nodes, kMaxNodes + 1ul, 0) == 0 ? 0
                                                                                           : errno;
}

// Makes the kernel back [begin, begin + num_bytes) now. Returns 0 or an errno.
int touch(std::byte* begin, std::size_t num_bytes) {
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

int touch_in_parallel(std::byte* begin, std::size_t num_bytes, int num_threads) {
  if (num_threads == 0) num_threads = std::min(num_usable_cpus(), kMaxTouchThreads);
  std::atomic<int> failed{0};
  const auto touch_slice = [&](int64_t slice) {
    const std::size_t at = static_cast<std::size_t>(slice) * kTouchSliceBytes;
    if (failed != 0) return;
    const int code = touch(begin + at, std::min(kTouchSliceBytes, num_bytes - at));
    if (code != 0) failed = code;
  };
  const std::size_t num_slices = (num_bytes + kTouchSliceBytes - 1) / kTouchSliceBytes;
  parallel_for(static_cast<int64_t>(num_slices), num_threads, touch_slice);
  return failed;
}

}  // namespace

HostMemory::HostMemory(std::size_t num_bytes, const HostMemoryOptions& options)
    : size_(checked_size(num_bytes)), owner_(::getpid()) {
  const std::size_t page_bytes = page_bytes_of(options.huge_pages);
  mapped_bytes_ = round_up(num_bytes, page_bytes);
  try {
    if (options.sharing == Sharing::kShared) fd_ = create_memory_file(mapped_bytes_, page_bytes);
    map(page_bytes);
    place(options);
  } catch (...) {
    unmap();
    throw;
  }
}

HostMemory::HostMemory(MemoryFile from, std::size_t num_bytes)
    : size_(checked_size(num_bytes)), owner_(::getpid()) {
  const int fd = from.fd;
  struct stat file{};
  struct statfs system{};
  const int seals = ::fcntl(fd, F_GET_SEALS);
  HICACHE_CHECK(kLayout, seals >= 0 && ::fstat(fd, &file) == 0 && ::fstatfs(fd, &system) == 0,
                "fd=", fd, " is no memory file: ", std::strerror(errno));
  HICACHE_CHECK(kLifetime, (seals & F_SEAL_SHRINK) != 0, "fd=", fd, " of ", file.st_size,
                " bytes is not sealed: whoever shrinks it kills this process");
  const bool is_huge = system.f_type == HUGETLBFS_MAGIC;
  const std::size_t page_bytes = is_huge ? static_cast<std::size_t>(system.f_bsize) : kPageBytes;
  mapped_bytes_ = round_up(num_bytes, page_bytes);
  HICACHE_CHECK(kLayout, mapped_bytes_ == static_cast<std::size_t>(file.st_size), "fd=", fd,
                " has ", file.st_size, " bytes, but num_bytes=", num_bytes, " needs ",
                mapped_bytes_);
  fd_ = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  HICACHE_CHECK(kCapacity, fd_ >= 0, "fd=", fd, " cannot be kept: ", std::strerror(errno));
  try {
    map(page_bytes);
  } catch (...) {
    unmap();
    throw;
  }
}

HostMemory::~HostMemory() {
  pinning_.unpin_all();
  unmap();
}

void HostMemory::map(std::size_t page_bytes) {
  // Aligned to 2 MiB even for small pages: without that, older kernels leave the first and last
  // huge page of every mapping small.
  std::byte* const begin = reserve(mapped_bytes_, std::max(page_bytes, kHugePageBytes));
  int flags = MAP_FIXED | (fd_ < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
  if (fd_ < 0 && page_bytes > kPageBytes)
    flags |= MAP_HUGETLB | static_cast<int>(huge_page_flag(page_bytes));
  if (::mmap(begin, mapped_bytes_, PROT_READ | PROT_WRITE, flags, fd_, 0) == MAP_FAILED) {
    const int code = errno;
    ::munmap(begin, mapped_bytes_);
    raise(code == ENOMEM ? ErrorKind::kCapacity : ErrorKind::kLayout, "mmap of ", mapped_bytes_,
          " bytes of host memory in pages of ", page_bytes, " bytes failed: ", std::strerror(code));
  }
  data_ = begin;
}

void HostMemory::place(const HostMemoryOptions& options) {
  // All of it before the first touch, which is when a page gets its place and its size. A kernel
  // without transparent huge pages refuses the advice: small pages are then what there is.
  if (options.huge_pages == HugePages::kAdvise) ::madvise(data_, mapped_bytes_, MADV_HUGEPAGE);
  if (options.huge_pages == HugePages::kNever) ::madvise(data_, mapped_bytes_, MADV_NOHUGEPAGE);
  if (options.numa_node >= 0) {
    const int code = bind_to_node(data_, mapped_bytes_, options.numa_node);
    HICACHE_CHECK(kCapacity, code == 0, "mbind of ", mapped_bytes_, " bytes to NUMA node ",
                  options.numa_node, " failed: ", std::strerror(code));
  }
  const int code = touch_in_parallel(data_, mapped_bytes_, options.num_threads);
  HICACHE_CHECK(kCapacity, code == 0, "the kernel gave no pages for ", size_,
                " bytes of host memory: ", std::strerror(code));
}

void HostMemory::pin(const PinApi& api, std::size_t object_bytes, std::size_t max_chunk_bytes,
                     int num_halvings) {
  HICACHE_CHECK(kLifetime, data_ != nullptr, "pin: the host memory is closed");
  pinning_.pin(api, {data_, mapped_bytes_, object_bytes, max_chunk_bytes, num_halvings});
  if (fd_ >= 0) return;
  // With a child that shares the pages copy-on-write, the parent's next write can get a copy while
  // the GPU keeps the original (kernels that do not copy pinned pages at fork).
  ::madvise(data_, mapped_bytes_, MADV_DONTFORK);
  hidden_from_children_ = true;
}

void HostMemory::unpin() {
  if (hidden_from_children_ && ::getpid() == owner_) {
    ::madvise(data_, mapped_bytes_, MADV_DOFORK);
    hidden_from_children_ = false;
  }
  pinning_.unpin();
}

void HostMemory::lock() {
  HICACHE_CHECK(kLifetime, data_ != nullptr, "lock: the host memory is closed");
  HICACHE_CHECK(kCapacity, ::mlock(data_, mapped_bytes_) == 0, "mlock of ", mapped_bytes_,
                " bytes failed: ", std::strerror(errno));
}

void HostMemory::close() {
  std::exception_ptr failed;
  try {
    pinning_.unpin();
  } catch (...) {
    failed = std::current_exception();
  }
  unmap();
  if (failed) std::rethrow_exception(failed);
}

void HostMemory::unmap() noexcept {
  // In a child the range of a hidden mapping may be somebody else's by now.
  const bool is_ours = !hidden_from_children_ || ::getpid() == owner_;
  if (data_ != nullptr && is_ours) ::munmap(data_, mapped_bytes_);
  if (fd_ >= 0) ::close(fd_);
  data_ = nullptr;
  fd_ = -1;
  hidden_from_children_ = false;
}

}  // namespace hicache
