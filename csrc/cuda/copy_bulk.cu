// The bulk-copy kernel.
#include "copy_bulk.cuh"
#include "copy_kernels.h"

namespace hicache {

KernelImage bulk_kernel() {
  return {reinterpret_cast<const void*>(&copy_bulk_kernel), kRingThreads};
}

}  // namespace hicache
