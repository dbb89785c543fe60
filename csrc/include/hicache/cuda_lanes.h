// Pack and unpack of a tick on the GPU, around the collective on the same stream.
#pragma once

#include "hicache/lanes_unpack.h"

struct CUstream_st;

namespace hicache {

// Ticks whose outcome the device may write before the host has collected the first of them.
inline constexpr int kTickRing = 4;

// What the host polls, in pinned memory.
struct alignas(64) TickOutcome {
  uint64_t sequence;  // n for the n-th tick; written last
  LaneVerdict verdict;
};

struct PackArgs {
  LaneSchema schema;
  const LaneHeader* header;  // read when the kernel runs, so that a captured graph can be replayed
  const SlotRecord* slots;   // [num_slots]
  const uint8_t* endpoints;  // [num_endpoints], not read while nobody asks
  int64_t* mine;             // [num_lanes]
};

struct UnpackArgs {
  LaneSchema schema;
  const int64_t* rows;  // [num_rows, num_lanes] of every rank; or one row, reduced already
  int num_rows;
  int64_t* agreed;        // [num_lanes] on the device: takes the minimum of the rows
  const int64_t* mine;    // [num_lanes] what this rank sent
  uint64_t* num_ticks;    // on the device: ticks unpacked so far
  TickOutcome* outcomes;  // [kTickRing], tick n in n % kTickRing; this and the next two are pinned
  int64_t* lanes;         // [kTickRing, num_lanes] a copy of `agreed`
  AgreedRecord* slots;    // [kTickRing, num_slots]
};

// All can be captured in a graph, once their code is loaded. They raise Error(kCuda) if that or the
// launch fails.
void preload_lane_kernels();
void launch_pack_lanes(const PackArgs& args, CUstream_st* stream);
void launch_unpack_lanes(const UnpackArgs& args, CUstream_st* stream);

}  // namespace hicache
