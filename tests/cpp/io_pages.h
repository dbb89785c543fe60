// A file and pages in memory for the tests of the I/O engines, and what they expect.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "hicache/storage/aligned_buffers.h"
#include "hicache/storage/io_engine.h"

namespace hicache {

inline constexpr size_t kPage = 8192;
inline std::atomic<int> num_failed = 0;

inline void expect(bool condition, const char* what, int64_t value = 0) {
  if (condition) return;
  ++num_failed;
  std::printf("%s: %lld\n", what, static_cast<long long>(value));
}

// A file that nobody else sees; on O_DIRECT where the folder has it.
class File {
 public:
  explicit File(bool is_direct) {
    char name[] = "io_engine_XXXXXX";
    const int fd = ::mkstemp(name);
    fd_ = is_direct ? ::open(name, O_RDWR | O_DIRECT | O_CLOEXEC) : -1;
    if (fd_ < 0) fd_ = ::open(name, O_RDWR | O_CLOEXEC);
    ::unlink(name);
    ::close(fd);
  }
  ~File() { ::close(fd_); }
  int fd() const { return fd_; }

 private:
  int fd_;
};

inline std::byte pattern(size_t page, size_t at) {
  return static_cast<std::byte>(page * 31 + at * 7);
}

// `num_pages` pages in aligned memory, and a request for each.
struct Pages {
  explicit Pages(size_t num_pages) : memory(kPage, num_pages), lease(memory.take(num_pages)) {
    for (size_t i = 0; i < num_pages; ++i) iovs.push_back({lease[i], kPage});
  }
  void fill() {
    for (size_t i = 0; i < iovs.size(); ++i)
      for (size_t at = 0; at < kPage; ++at) lease[i][at] = pattern(i, at);
  }
  void wipe() { std::memset(memory.data(), 0, memory.num_bytes()); }
  bool is_right(size_t i) const {
    for (size_t at = 0; at < kPage; ++at)
      if (lease[i][at] != pattern(i, at)) return false;
    return true;
  }
  std::vector<IoRequest> requests(IoOp op, int file) const {
    std::vector<IoRequest> out;
    for (size_t i = 0; i < iovs.size(); ++i)
      out.push_back({op, file, i * kPage, &iovs[i], 1, static_cast<uint32_t>(i)});
    return out;
  }

  AlignedBuffers memory;
  AlignedBuffers::Lease lease;
  std::vector<iovec> iovs;
};

inline std::vector<int> run(IoEngine& engine, const std::vector<IoRequest>& requests,
                            IoLimit limit = {}) {
  std::vector<int> errors(requests.size(), -1);
  const std::thread::id caller = std::this_thread::get_id();
  engine.run(requests.data(), requests.size(), limit, [&](uint32_t position, int error) {
    expect(std::this_thread::get_id() == caller, "done on another thread");
    expect(errors[position] == -1, "done twice", position);
    errors[position] = error;
  });
  return errors;
}

inline void all_are(const std::vector<int>& errors, int error, const char* what) {
  for (const int found : errors) expect(found == error, what, found);
}

}  // namespace hicache
