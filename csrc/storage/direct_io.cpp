#include "hicache/storage/direct_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "hicache/check.h"
#include "hicache/storage/aligned_buffers.h"

namespace hicache {
namespace {

// A file without a name, or -1 and errno.
int open_nameless(const std::string& folder, int flags) {
  const int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return fd;
  std::string path = folder + "/.probe-XXXXXX";  // a file system without such files (NFS, overlay)
  const int named = ::mkostemp(path.data(), O_CLOEXEC | flags);
  const int error = errno;
  ::unlink(path.c_str());
  errno = error;
  return named;
}

std::string refusal_of(int fd) {
#ifdef STATX_DIOALIGN
  struct statx about{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &about) == 0 &&
      (about.stx_mask & STATX_DIOALIGN) != 0) {
    const unsigned align = about.stx_dio_offset_align;
    if (align == 0) return "the file system has none";
    if (kPageBytes % align != 0 || about.stx_dio_mem_align > kPageBytes)
      return "the disk wants blocks of " + std::to_string(align) + " bytes";
  }
#endif
  AlignedBuffers buffers(kPageBytes, 1);
  const auto lease = buffers.take(1);
  constexpr auto kWhole = static_cast<ssize_t>(kPageBytes);
  if (::pwrite(fd, lease[0], kPageBytes, 0) != kWhole) return std::strerror(errno);
  if (::pread(fd, lease[0], kPageBytes, 0) != kWhole) return std::strerror(errno);
  return "";
}

}  // namespace

DirectIo probe_direct_io(const std::string& folder) {
  const char* const asked = std::getenv("HICACHE_O_DIRECT");
  if (asked != nullptr && std::strcmp(asked, "0") == 0) return {false, "HICACHE_O_DIRECT=0"};
  const int fd = open_nameless(folder, O_DIRECT);
  if (fd >= 0) {
    const std::string refusal = refusal_of(fd);
    ::close(fd);
    return {refusal.empty(), refusal};
  }
  HICACHE_CHECK(kStorage, errno == EINVAL, "no file can be made in ", folder, ": ",
                std::strerror(errno));
  return {false, "the file system refuses O_DIRECT"};
}

}  // namespace hicache
