// Ranges that a profiler shows: NVTX domain "hicache". Without a tool attached each call is a load
// and a branch; without NVTX headers at build time nothing is ever attached.
#pragma once

#include <cstdint>

namespace hicache {

enum class CopyDirection : uint32_t {
  kHostToHost,
  kHostToDevice,
  kDeviceToHost,
  kDeviceToDevice,
};

struct CopyRange {
  const char* executor;  // the name of both ranges
  CopyDirection direction;
  uint64_t num_bytes;
  uint64_t num_runs;
};

// Whether this build has the ranges.
bool with_nvtx();

// Whether a tool listens; decided at the first call, for the life of the process.
bool is_profiled();

// Opens two ranges: that of the copy, which end_copy() closes when the copy is seen done, on any
// thread; and one around its enqueue, on this thread, which end_enqueue() closes.
uint64_t begin_copy(const CopyRange& range);
void end_enqueue();
void end_copy(uint64_t id);

}  // namespace hicache
