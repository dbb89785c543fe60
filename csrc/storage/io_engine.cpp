// Which engine a machine gets.
#include "hicache/storage/io_engine.h"

#include <ctime>

#include "hicache/check.h"
#include "hicache/host_memory.h"
#include "io_threads.h"

namespace hicache {

bool IoLimit::is_over() const {
  if (cancelled != nullptr && cancelled->load(std::memory_order_relaxed)) return true;
  if (deadline_ns == 0) return false;
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec >= deadline_ns;
}

std::unique_ptr<IoEngine> make_io_engine(const IoConfig& config) {
  HICACHE_CHECK(kStorage,
                config.max_call_bytes >= kPageBytes && config.max_call_bytes % kPageBytes == 0,
                "max_call_bytes=", config.max_call_bytes, " is no multiple of ", kPageBytes);
  HICACHE_CHECK(kStorage, config.path != IoPath::kUring, "no io_uring: not built in");
  return make_thread_engine(config, config.path == IoPath::kAuto ? "not built in" : "asked for");
}

}  // namespace hicache
