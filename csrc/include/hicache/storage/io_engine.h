// Reads and writes of a page store, in batches, at the depth that a disk likes. Whether they go
// around the page cache (O_DIRECT) is a property of the descriptor.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace hicache {

enum class IoOp : uint8_t { kRead, kWrite };

struct IoRequest {
  IoOp op;
  int file;           // descriptor
  uint64_t offset;    // bytes
  const iovec* iov;   // [num_iov], of the caller until run() returns; adjacent in the file
  uint32_t num_iov;   // 0: nothing to move, which succeeds
  uint32_t position;  // what `done` is told
};

struct IoLimit {
  int64_t deadline_ns = 0;  // CLOCK_MONOTONIC; 0: none
  const std::atomic<bool>* cancelled = nullptr;

  bool is_set() const { return deadline_ns != 0 || cancelled != nullptr; }
  bool is_over() const;
};

// `error`: 0 if all bytes were moved; ECANCELED if the limit was over before all of it was started;
// ENODATA if the file ended before; else the errno of the disk. Must not throw.
using IoDone = std::function<void(uint32_t position, int error)>;

// One system call as a fault sees it.
struct IoCall {
  IoOp op;
  int file;
  uint64_t offset;
  uint64_t num_bytes;
};
// For tests: given what the kernel said (bytes, or -errno), returns what the engine shall believe.
// Called from the threads of the engine, several at a time. Must not throw.
using IoFault = std::function<int64_t(const IoCall&, int64_t result)>;

enum class IoPath : uint8_t {
  kAuto,     // io_uring where build and kernel have it, else threads; or as HICACHE_IO says
  kUring,    // or StorageError, with the reason
  kThreads,  // preadv and pwritev
};

struct IoConfig {
  IoPath path = IoPath::kAuto;
  uint64_t max_in_flight_bytes = 16u << 20;  // over all callers; a larger call goes alone
  uint64_t max_call_bytes = 1u << 20;        // neighbours are joined up to it, the rest is cut
  int num_threads = 8;                       // of kThreads; started with the first batch
  IoFault fault;
};

// What was chosen when the engine was made, and why it is not the best that there is.
struct IoReport {
  std::string engine;         // "io_uring" or "threads"
  std::string engine_reason;  // empty: the best
  std::string buffers;        // "registered", "plain: ..." (may change with add_buffer)
};

class IoEngine {
 public:
  virtual ~IoEngine() = default;  // nobody is in run() any more

  // Runs all requests, in any order, and returns when none touches its buffers any more. `done` is
  // called once for each, on the caller's thread, as each ends, so that checksums overlap with the
  // I/O of the others. Past the limit, what was not started never is, and what was is waited for.
  // Any number of callers at a time, who share the bytes in flight; their reads go before their
  // writes. Requests that overlap are the caller's to avoid.
  virtual void run(const IoRequest* requests, size_t num_requests, const IoLimit& limit,
                   const IoDone& done) = 0;

  // fdatasync. 0 or an errno.
  virtual int sync(int file) = 0;

  // Hints, which cost nothing where they do not help: memory that requests will point into, and
  // descriptors that they will use, until removed (before they are unmapped and closed). A range
  // must be whole pages, and neither in run() when it is removed.
  virtual void add_buffer(void* begin, size_t num_bytes) = 0;
  virtual void remove_buffer(void* begin) = 0;
  virtual void add_file(int file) = 0;
  virtual void remove_file(int file) = 0;

  virtual IoReport report() const = 0;
};

// Throws Error(kStorage) if config.path cannot be had. Not usable in a forked child.
std::unique_ptr<IoEngine> make_io_engine(const IoConfig& config);

}  // namespace hicache
