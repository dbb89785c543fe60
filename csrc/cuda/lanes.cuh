// The kernels around lanes.h: who does which slot, and how the host learns that it is done.
#pragma once

#include "hicache/cuda_lanes.h"

namespace hicache {

inline constexpr int kLaneThreads = 128;

// Any grid.
__global__ void __launch_bounds__(kLaneThreads)
    pack_lanes_kernel(const __grid_constant__ PackArgs args) {
  const auto thread_idx = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  pack_body(args.schema, *args.header, args.slots, args.endpoints, args.mine, thread_idx,
            static_cast<int>(gridDim.x * blockDim.x));
}

// One block: a tick is a few kilobytes, and the flag must follow everyone's writes. The 1 says so
// to the compiler, which would save registers for other blocks, and spill.
__global__ void __launch_bounds__(kLaneThreads, 1)
    unpack_lanes_kernel(const __grid_constant__ UnpackArgs args) {
  __shared__ long long first_bad;
  const uint64_t tick = *args.num_ticks + 1;
  const int64_t entry = static_cast<int64_t>(tick % kTickRing);
  if (threadIdx.x == 0) first_bad = kLaneNeutral;

  int64_t* lanes = args.lanes + entry * num_lanes(args.schema);
  // A constant stride: the compiler divides by it for the trip count, and 64 bits would be a call.
  for (int64_t lane = threadIdx.x; lane < num_lanes(args.schema); lane += kLaneThreads) {
    const int64_t low = min_of_rows(args.rows, args.num_rows, num_lanes(args.schema), lane);
    args.agreed[lane] = low;
    lanes[lane] = low;
  }
  __syncthreads();  // from here on a thread reads lanes that another one has reduced

  const int64_t bad =
      unpack_body(args.schema, args.agreed, args.mine, args.slots + entry * args.schema.num_slots,
                  threadIdx.x, kLaneThreads);
  if (bad != kLaneNeutral) atomicMin(&first_bad, static_cast<long long>(bad));
  // The host must see every thread's writes before the sequence number: each thread's are pushed
  // out, then all have passed the barrier, then the number goes.
  __threadfence_system();
  __syncthreads();

  if (threadIdx.x != 0) return;
  TickOutcome* outcome = args.outcomes + entry;
  outcome->verdict = lane_verdict(args.schema, args.agreed, args.mine, first_bad);
  *args.num_ticks = tick;
  __threadfence_system();
  *const_cast<volatile uint64_t*>(&outcome->sequence) = tick;
}

}  // namespace hicache
