// Which engine a machine gets.
#include "hicache/storage/io_engine.h"

#include <cstdlib>
#include <cstring>
#include <ctime>

#include "hicache/check.h"
#include "hicache/host_memory.h"
#include "io_threads.h"
#ifdef HICACHE_WITH_URING
#include "io_uring.h"
#endif

namespace hicache {

bool IoLimit::is_over() const {
  if (cancelled != nullptr && cancelled->load(std::memory_order_relaxed)) return true;
  if (deadline_ns == 0) return false;
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec >= deadline_ns;
}

namespace {

constexpr uint64_t kMaxCallBytes = uint64_t{1} << 30;

// HICACHE_IO says what kAuto is, for machines on which the choice is wrong and for tests.
IoPath path_of(IoPath asked) {
  const char* const name = std::getenv("HICACHE_IO");
  if (asked != IoPath::kAuto || name == nullptr || std::strcmp(name, "auto") == 0) return asked;
  if (std::strcmp(name, "io_uring") == 0) return IoPath::kUring;
  HICACHE_CHECK(kStorage, std::strcmp(name, "threads") == 0, "HICACHE_IO=", name,
                " is none of auto, io_uring, threads");
  return IoPath::kThreads;
}

}  // namespace

std::unique_ptr<IoEngine> make_io_engine(const IoConfig& config) {
  HICACHE_CHECK(kStorage,
                config.max_call_bytes >= kPageBytes && config.max_call_bytes % kPageBytes == 0 &&
                    config.max_call_bytes <= kMaxCallBytes,
                "max_call_bytes=", config.max_call_bytes, " is no multiple of ", kPageBytes,
                " up to ", kMaxCallBytes);
  const IoPath path = path_of(config.path);
  if (path == IoPath::kThreads) return make_thread_engine(config, "asked for");
#ifdef HICACHE_WITH_URING
  try {
    return make_uring_engine(config);
  } catch (const Error& error) {
    if (path == IoPath::kUring) throw;
    return make_thread_engine(config, error.what());
  }
#else
  constexpr const char* kReason = "built without liburing 2.2 or later (Debian: liburing-dev)";
  HICACHE_CHECK(kStorage, path != IoPath::kUring, "no io_uring: ", kReason);
  return make_thread_engine(config, kReason);
#endif
}

}  // namespace hicache
