// A copy between device and host as two: a kernel between the device's layout and packed pages in a
// staging buffer on the device, and large DMAs between those and the host.
#pragma once

#include "hicache/copy_worker.h"

namespace hicache {

struct StagedPlan {
  Plan kernel;  // its host side is the staging buffer
  Plan dma;     // its device side is
};

// Bytes between two packed pages.
int64_t packed_stride(const Plan& plan);

// The packed page has the bytes in the order in which they lie on the host, so that the runs of
// the DMA are as long as the host's layout allows.
StagedPlan stage_plan(const Plan& plan, CopySide host);

}  // namespace hicache
