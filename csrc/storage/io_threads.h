// The engine of a machine without io_uring.
#pragma once

#include "hicache/storage/io_engine.h"

namespace hicache {

std::unique_ptr<IoEngine> make_thread_engine(const IoConfig& config, std::string reason);

}  // namespace hicache
