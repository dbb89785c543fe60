// Copies of pages on a CUDA stream.
#pragma once

#include <memory>
#include <optional>

#include "hicache/copy.h"
#include "hicache/cuda_api.h"
#include "hicache/staging_ring.h"

namespace hicache {

enum class CudaExecutor { kSmReg, kSmBulk, kCeBatch, kStaged };

struct CudaCopyOptions {
  CudaExecutor executor;
  int device;         // of the stream
  int num_sms;        // 0: a quota by where the two buffers are
  CudaStream stream;  // the copy comes after what it has
  // With a priority the copy runs on a stream of the library, beside the caller's.
  std::optional<StreamPriority> priority;
  std::shared_ptr<StagingRing> ring;  // of staged; nullptr: the device's own
};

// A copy under way. Destroying it waits for the copy, so that nobody frees what it still reads.
// In a capture nothing is under way: the ticket owns what the graph reads, and must live as long.
class CopyTicket {
 public:
  virtual ~CopyTicket() = default;
  virtual bool is_captured() const = 0;
  virtual bool query() = 0;
  virtual void wait() = 0;                               // blocks this thread
  virtual void wait_on_stream(CUstream_st* stream) = 0;  // that stream waits, this thread does not
  // Bytes moved, after waiting (captured: by the last replay, which the caller has waited for).
  // Throws Error(kPageIndex) with the first id out of range that the device met (its page was
  // skipped, the others were copied), or Error(kCuda).
  virtual int64_t result() = 0;
};

// Whether what the stream gets becomes part of a graph. Throws Error(kCuda) as copy_on_stream().
bool is_capturing(int device, CudaStream stream);

// Lets what `after` gets from now on wait for what `before` has by now; neither thread nor device
// waits. `before` of a capture is left alone, since a graph cannot wait for what runs outside of
// it. Throws Error(kCuda).
void order_streams(int device, CudaStream before, CudaStream after);

// The device whose memory the address is of; nothing if it lies on the host. Throws Error(kCuda).
std::optional<int> device_of_memory(const void* address);

// Host ids are checked before anything is enqueued, device ids by the kernel; plane tables are read
// on this thread. Throws Error(kCuda) where there is no driver, no such device, a buffer that the
// device cannot reach, or an executor that it does not have; Error(kLayout) where the executor
// cannot do this copy.
std::unique_ptr<CopyTicket> copy_on_stream(const CopySet& set, const CudaCopyOptions& options);

}  // namespace hicache
