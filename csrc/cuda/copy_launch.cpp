// Kernels pass by pass, and copies without a kernel.
#include <algorithm>

#include "copy_dma.h"
#include "copy_executors.h"
#include "hicache/copy_ring.h"

namespace hicache {

void enqueue_kernel(CudaApi& cuda, const KernelJob& job) {
  cuda.resources().prepare(job.device, job.kernel);
  const uint32_t shared_bytes = std::min(kRingBytes, static_cast<uint32_t>(job.max_shared_bytes));
  for_each_pass(job.set, kSegmentBytes, [&](const Pass& pass) {
    const auto max_blocks = static_cast<uint32_t>(job.num_sms);
    const CopyGrid grid = copy_grid(job.kernel, pass, max_blocks, shared_bytes);
    cuda.launch(job.kernel, {pass, job.guard}, grid, job.stream);
  });
}

void enqueue_batches(CudaApi& cuda, const CopySet& set, CudaStream stream) {
  DmaQueue queue(cuda, stream);
  add_runs(queue, set);
  queue.flush();
}

}  // namespace hicache
