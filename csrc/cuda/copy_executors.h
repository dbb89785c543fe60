// How each executor enqueues a copy. What they enqueue may run later than they return.
#pragma once

#include "copy_upload.h"
#include "hicache/copy_worker.h"
#include "hicache/cuda_api.h"
#include "hicache/staging_ring.h"

namespace hicache {

struct KernelJob {
  CopyKernel kernel;
  const CopySet& set;  // page ids and plane tables are readable by the device
  CopyGuard* guard;    // on the device; nullptr: the ids have been checked
  int device;
  int num_sms;
  int max_shared_bytes;
  CudaStream stream;
};
void enqueue_kernel(CudaApi& cuda, const KernelJob& job);

// Copy engines, with page ids and plane tables on the host.
void enqueue_batches(CudaApi& cuda, const CopySet& set, CudaStream stream);

// Kernel and copy engines through the ring; page ids on the host, checked. What the kernel reads is
// added to `upload`, which this sends. `stream` is behind the last copy when it returns.
struct StagedJob {
  const CopySet& set;
  CopySide host_side;
  int num_sms;
  CudaStream stream;
};
void enqueue_staged(CudaApi& cuda, const StagedJob& job, StagingRing& ring, Upload& upload);

}  // namespace hicache
