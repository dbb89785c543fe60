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
  const uint32_t wanted = (args.num_units + kWorkers - 1) / kWorkers;
  const uint32_t num_blocks = std::min(wanted, static_cast<uint32_t>(num_sms));
  copy_pages_kernel<Shape><<<num_blocks, Shape::kThreads, 0, stream>>>(args);
  HICACHE_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void launch_copy(const CopyParams& params, CopyGuard* guard, int num_sms, CUstream_st* stream) {
  if (params.num_positions == 0) return;
  const bool is_short = params.plan.run_bytes <= kShortRun;
  WorkerArgs args{params, make_tiling(params.plan, kSegmentBytes), 0, 0, guard};
  const int64_t units_per_page =
      int64_t{params.plan.runs_per_page.divisor} * args.tiling.segments_per_run.divisor;
  const int64_t most = max_positions(params.plan, args.tiling);
  for (int64_t done = 0; done < params.num_positions; done += args.params.num_positions) {
    args.params = positions_of(params, done, std::min(params.num_positions - done, most));
    args.num_units = static_cast<uint32_t>(args.params.num_positions * units_per_page);
    args.first_position = static_cast<uint32_t>(done);
    if (is_short)
      launch<ShortRunShape>(args, num_sms, stream);
    else
      launch<LongRunShape>(args, num_sms, stream);
  }
}

}  // namespace hicache
