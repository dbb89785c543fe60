// How executors that work unit by unit cut a copy: equal units, numbered through the parts, in
// passes of fewer than 2^31 of them. Almost every copy is one pass.
#pragma once

#include <cstdint>
#include <functional>

#include "hicache/copy.h"

namespace hicache {

// A run is cut into segments; a unit is one segment of one run of one position.
struct Tiling {
  int64_t segment_bytes;
  FastDiv segments_per_run;
  FastDiv runs_per_page;
};

struct Unit {
  uint32_t position;  // in the id lists of the part
  uint32_t run;
  int64_t begin;  // bytes into the run
  int64_t num_bytes;
};

HICACHE_HD Unit locate_unit(const Plan& plan, const Tiling& tiling, uint32_t unit) {
  const uint32_t flat_run = tiling.segments_per_run.div(unit);
  const uint32_t position = tiling.runs_per_page.div(flat_run);
  const uint32_t segment = unit - flat_run * tiling.segments_per_run.divisor;
  const int64_t begin = segment * tiling.segment_bytes;
  const int64_t left = plan.run_bytes - begin;
  return {position, flat_run - position * tiling.runs_per_page.divisor, begin,
          left < tiling.segment_bytes ? left : tiling.segment_bytes};
}

struct Pass {
  CopySet set;  // parts of the caller's set, or cuts of them
  Tiling tilings[kMaxParts];
  uint32_t unit_ends[kMaxParts];        // units of the parts up to and with this one
  uint32_t first_positions[kMaxParts];  // of the part's first position, counted as Position is

  HICACHE_HD uint32_t num_units() const {
    return set.num_parts == 0 ? 0 : unit_ends[set.num_parts - 1];
  }
  HICACHE_HD uint32_t first_unit(uint32_t part) const {
    return part == 0 ? 0 : unit_ends[part - 1];
  }
};

// Calls fn(pass) for one pass after the other. Segments have at most max_segment_bytes (more only
// where a run would have 2^31 of them), passes at most max_units, or the segments of one run.
void for_each_pass(const CopySet& set, int64_t max_segment_bytes,
                   const std::function<void(const Pass&)>& fn, int64_t max_units = kMaxUnits - 1);

}  // namespace hicache
