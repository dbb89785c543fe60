#include "hicache/storage/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace hicache::storage {
namespace {

// A call that was interrupted before it did anything is made again.
template <typename Call>
auto told(Call call) -> decltype(call()) {
  decltype(call()) result;
  do result = call();
  while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

}  // namespace

int Files::open(int dir, const char* name, int flags, mode_t mode) {
  return told([&] { return ::openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW, mode); });
}

int Files::close(int file) { return ::close(file) < 0 ? -errno : 0; }

int Files::make_dir(int dir, const char* name, mode_t mode) {
  return told([&] { return ::mkdirat(dir, name, mode); });
}

int64_t Files::read(int file, void* to, size_t num_bytes, uint64_t offset) {
  return told([&] { return ::pread(file, to, num_bytes, static_cast<off_t>(offset)); });
}

int64_t Files::write(int file, const void* from, size_t num_bytes, uint64_t offset) {
  return told([&] { return ::pwrite(file, from, num_bytes, static_cast<off_t>(offset)); });
}

int Files::allocate(int file, uint64_t offset, uint64_t num_bytes) {
  const auto begin = static_cast<off_t>(offset), length = static_cast<off_t>(num_bytes);
  const int result = told([&] { return ::fallocate(file, 0, begin, length); });
  if (result != -EOPNOTSUPP) return result;
  return truncate(file, offset + num_bytes);  // this file system finds room only as it writes
}

int Files::truncate(int file, uint64_t num_bytes) {
  return told([&] { return ::ftruncate(file, static_cast<off_t>(num_bytes)); });
}

int Files::sync_data(int file) {
  return told([&] { return ::fdatasync(file); });
}

int Files::sync(int file) {
  return told([&] { return ::fsync(file); });
}

int Files::rename(int dir, const char* from, const char* to) {
  return told([&] { return ::renameat(dir, from, dir, to); });
}

int Files::lock(int file) {
  return told([&] { return ::flock(file, LOCK_EX | LOCK_NB); });
}

int Files::stat(int file, struct stat* out) { return ::fstat(file, out) < 0 ? -errno : 0; }

int Files::stat_in(int dir, const char* name, struct stat* out) {
  return ::fstatat(dir, name, out, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int Files::list(int dir, std::vector<std::string>* names) {
  const int own = ::openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);  // with its own position
  if (own < 0) return -errno;
  DIR* const stream = ::fdopendir(own);
  if (stream == nullptr) {
    const int error = errno;
    ::close(own);
    return -error;
  }
  names->clear();
  errno = 0;
  while (const dirent* entry = ::readdir(stream)) names->emplace_back(entry->d_name);
  const int error = errno;
  ::closedir(stream);
  return -error;
}

int read_all(Files& files, int file, void* to, size_t num_bytes, uint64_t offset) {
  auto* at = static_cast<char*>(to);
  while (num_bytes > 0) {
    const int64_t part = files.read(file, at, num_bytes, offset);
    if (part < 0) return static_cast<int>(part);
    if (part == 0) return -ENODATA;
    at += part;
    offset += static_cast<uint64_t>(part);
    num_bytes -= static_cast<size_t>(part);
  }
  return 0;
}

size_t write_all(Files& files, int file, const void* from, size_t num_bytes, uint64_t offset,
                 int* error) {
  const auto* at = static_cast<const char*>(from);
  size_t num_written = 0;
  *error = 0;
  while (num_written < num_bytes) {
    const int64_t part =
        files.write(file, at + num_written, num_bytes - num_written, offset + num_written);
    if (part <= 0) {
      *error = part < 0 ? static_cast<int>(-part) : EIO;
      break;
    }
    num_written += static_cast<size_t>(part);
  }
  return num_written;
}

}  // namespace hicache::storage
