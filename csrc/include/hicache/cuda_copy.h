// Copies of pages on a CUDA stream.
#pragma once

#include <memory>
#include <vector>

#include "hicache/copy.h"

struct CUstream_st;

namespace hicache {

struct CopyGuard;

// Enqueues the register kernel on at most num_sms blocks; ids, plane tables and guard are readable
// by the device.
void launch_copy(const CopySet& set, CopyGuard* guard, int num_sms, CUstream_st* stream);

struct CudaCopyOptions {
  int device;           // of the stream
  int num_sms;          // 0: a quota by where the two buffers are
  CUstream_st* stream;  // nullptr is the legacy default stream
};

// A copy under way. Destroying it waits for the copy, so that nobody frees what it still reads.
class CopyTicket {
 public:
  virtual ~CopyTicket() = default;
  virtual bool query() = 0;
  virtual void wait() = 0;                               // blocks this thread
  virtual void wait_on_stream(CUstream_st* stream) = 0;  // that stream waits, this thread does not
  // Bytes moved, after waiting. Throws Error(kPageIndex) with the first id out of range that the
  // device met (its page was skipped, the others were copied), or Error(kCuda).
  virtual int64_t result() = 0;
};

// Throws Error(kCuda) where there is no driver or no such device.
void require_device(int device);

// The addresses of a plane table in memory of the device; freed with the last owner.
std::shared_ptr<const uint64_t> upload_table(const std::vector<uint64_t>& planes, int device);

// Host ids are checked before anything is enqueued, device ids by the kernel. Throws Error(kCuda)
// where there is no driver, no such device, or a buffer that the device cannot reach. Plane tables
// must be readable by the device.
std::unique_ptr<CopyTicket> copy_sm_reg(const CopySet& set, const CudaCopyOptions& options);

}  // namespace hicache
