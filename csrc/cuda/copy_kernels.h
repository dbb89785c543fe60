// The kernels of copy.cu and copy_bulk.cu, for a launch from a file that nvcc does not compile.
#pragma once

namespace hicache {

struct KernelImage {
  const void* function;
  unsigned num_threads;  // of a block
};

KernelImage short_run_kernel();
KernelImage long_run_kernel();
KernelImage bulk_kernel();

}  // namespace hicache
