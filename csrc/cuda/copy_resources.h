// What copies leave to the next ones on a device: small memory for page ids, streams, the staging
// ring. None of it goes back to CUDA, whose allocations wait for the device.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "hicache/cuda_api.h"
#include "hicache/cuda_copy.h"

namespace hicache {

// The same bytes twice: pinned on the host, and on the device.
struct UploadBlock {
  std::byte* pinned = nullptr;
  std::byte* device = nullptr;
  size_t num_bytes = 0;
};

class CopyResources {
 public:
  explicit CopyResources(CudaApi& cuda) : cuda_(cuda) {}

  // At least num_bytes. A block may be given back only when nothing reads it any more: the stream
  // runs later than the thread that enqueued the copy.
  UploadBlock take_block(int device, size_t num_bytes);
  void give_block(int device, const UploadBlock& block) noexcept;

  // One stream for each priority: the link is the bottleneck of all copies on it.
  CudaStream stream(int device, StreamPriority priority);
  std::shared_ptr<StagingRing> ring(int device);

  // Has the kernel's code loaded, once: a first launch in a capture would load it there.
  void prepare(int device, CopyKernel kernel);

 private:
  CudaApi& cuda_;
  std::mutex mutex_;
  std::multimap<std::pair<int, size_t>, UploadBlock> blocks_;
  std::map<std::pair<int, StreamPriority>, CudaStream> streams_;
  std::map<int, std::shared_ptr<StagingRing>> rings_;
  std::set<std::pair<int, CopyKernel>> prepared_;
};

}  // namespace hicache
