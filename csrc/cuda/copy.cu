// The register kernel, compiled for each shape.
#include "copy.cuh"
#include "copy_kernels.h"

namespace hicache {

KernelImage short_run_kernel() {
  return {reinterpret_cast<const void*>(&copy_pages_kernel<ShortRunShape>),
          ShortRunShape::kThreads};
}

KernelImage long_run_kernel() {
  return {reinterpret_cast<const void*>(&copy_pages_kernel<LongRunShape>), LongRunShape::kThreads};
}

}  // namespace hicache
