// Copies as the DMA engines take them: runs that continue each other joined, cut where they must
// be, and handed over in batches.
#pragma once

#include <vector>

#include "hicache/copy.h"
#include "hicache/cuda_api.h"
#include "hicache/pinning.h"

namespace hicache {

// The driver prepares a batch on the CPU before the engines begin: smaller ones overlap the two.
constexpr size_t kMaxBatchCopies = 512;
// A large copy holds up every small one behind it on the same engine.
constexpr size_t kMaxDmaBytes = size_t{16} << 20;
// With larger copies in the batch the flag for overlap with kernels slows it down.
constexpr size_t kMaxOverlapBytes = size_t{128} << 10;

class DmaQueue {
 public:
  // Batches are impossible on the legacy default stream and in a capture: then copy by copy.
  DmaQueue(CudaApi& cuda, CudaStream stream);

  // Runs in any order; none may overlap another.
  void add(std::byte* dst, const std::byte* src, size_t num_bytes);
  void flush();

 private:
  void cut();  // the joined run into copies
  void send();
  size_t room(const std::byte* address) const;

  CudaApi& cuda_;
  CudaStream stream_;
  bool in_batches_;
  std::vector<PinnedRegion> regions_;  // ascending; no copy may lie in two of them
  std::byte* dst_ = nullptr;           // what has been joined so far
  const std::byte* src_ = nullptr;
  size_t num_bytes_ = 0;
  std::vector<void*> dsts_;
  std::vector<const void*> srcs_;
  std::vector<size_t> sizes_;
};

// Every run of the set; page ids, already checked, and plane tables are read on this thread.
void add_runs(DmaQueue& queue, const CopySet& set);

}  // namespace hicache
