// Launches of the register kernel.
#include <algorithm>

#include "copy.cuh"
#include "hicache/cuda_check.h"
#include "hicache/cuda_copy.h"

namespace hicache {
namespace {

template <class Shape>
void launch(const WorkerArgs& args, int num_sms, cudaStream_t stream) {
  constexpr uint32_t kWorkers = Shape::kThreads / Shape::kLanes;
  const uint32_t wanted = (args.pass.num_units() - 1) / kWorkers + 1;
  const uint32_t num_blocks = std::min(wanted, static_cast<uint32_t>(num_sms));
  copy_pages_kernel<Shape><<<num_blocks, Shape::kThreads, 0, stream>>>(args);
  HICACHE_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void launch_copy(const CopySet& set, CopyGuard* guard, int num_sms, CUstream_st* stream) {
  const bool is_short = has_short_runs(set);
  for_each_pass(set, kSegmentBytes, [&](const Pass& pass) {
    const WorkerArgs args{pass, guard};
    if (is_short)
      launch<ShortRunShape>(args, num_sms, stream);
    else
      launch<LongRunShape>(args, num_sms, stream);
  });
}

}  // namespace hicache
