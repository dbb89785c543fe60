// The engine of a kernel with io_uring, in builds with liburing.
#pragma once

#include "hicache/storage/io_engine.h"

namespace hicache {

// Throws Error(kStorage), with the kernel's reason, where it may not be used (as in containers
// whose seccomp filter has no io_uring).
std::unique_ptr<IoEngine> make_uring_engine(const IoConfig& config);

}  // namespace hicache
