// Cuts a CopySet into passes.
#include "hicache/copy_pass.h"

#include <algorithm>

#include "hicache/check.h"

namespace hicache {
namespace {

int64_t div_up(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

int64_t segment_bytes_of(const Plan& plan, int64_t max_segment_bytes) {
  const int64_t least = div_up(plan.run_bytes, kMaxUnits - 1);
  return std::min(plan.run_bytes, div_up(least, max_segment_bytes) * max_segment_bytes);
}

PageIds skip(const PageIds& ids, int64_t num_positions) {
  const auto* data = static_cast<const std::byte*>(ids.data);
  return {data + num_positions * static_cast<int64_t>(ids.width), ids.width, ids.place};
}

class Passes {
 public:
  Passes(int64_t max_units, const std::function<void(const Pass&)>& fn)
      : max_units_(max_units), fn_(fn) {}

  // One step of a part, all positions of it.
  void add(const CopyParams& part, int64_t step, int64_t max_segment_bytes,
           int64_t first_position) {
    const int64_t steps = num_steps(part.plan);
    const Plan plan = Slices(part.plan, part.plan.runs_per_page / steps).at(step);
    const int64_t segment_bytes = segment_bytes_of(plan, max_segment_bytes);
    const int64_t segments = div_up(plan.run_bytes, segment_bytes);
    const Slices slices(plan, std::max<int64_t>(1, max_units_ / segments));
    for (int64_t i = 0; i < slices.size(); ++i)
      add_box(part, slices.at(i), segment_bytes, segments, first_position);
  }

  void flush() {
    if (pass_.set.num_parts > 0) fn_(pass_);
    pass_.set.num_parts = 0;
  }

 private:
  // All positions of one box of a part's runs.
  void add_box(const CopyParams& part, const Plan& box, int64_t segment_bytes, int64_t segments,
               int64_t first_position) {
    const int64_t units_per_position = box.runs_per_page * segments;
    const int64_t most = std::max<int64_t>(1, max_units_ / units_per_position);
    for (int64_t done = 0; done < part.num_positions;) {
      int64_t room = (max_units_ - pass_.num_units()) / units_per_position;
      if (pass_.set.num_parts == kMaxParts || room == 0) flush();
      if (pass_.set.num_parts == 0) room = most;
      const int64_t count = std::min(part.num_positions - done, room);
      const uint32_t i = pass_.set.num_parts;
      const auto num_units = static_cast<uint32_t>(count * units_per_position);
      pass_.set.parts[i] = part;
      pass_.set.parts[i].plan = box;
      pass_.set.parts[i].src_ids = skip(part.src_ids, done);
      pass_.set.parts[i].dst_ids = skip(part.dst_ids, done);
      pass_.set.parts[i].num_positions = count;
      pass_.tilings[i] = {segment_bytes, FastDiv::make(static_cast<uint32_t>(segments)),
                          FastDiv::make(static_cast<uint32_t>(box.runs_per_page))};
      pass_.unit_ends[i] = pass_.num_units() + num_units;
      pass_.first_positions[i] = static_cast<uint32_t>(first_position + done);
      pass_.set.num_parts = i + 1;
      done += count;
    }
  }

  const int64_t max_units_;
  const std::function<void(const Pass&)>& fn_;
  Pass pass_{};
};

}  // namespace

void for_each_pass(const CopySet& set, int64_t max_segment_bytes,
                   const std::function<void(const Pass&)>& fn, int64_t max_units) {
  Passes passes(max_units, fn);
  int64_t most_steps = 0;
  for (uint32_t p = 0; p < set.num_parts; ++p)
    most_steps = std::max(most_steps, num_steps(set.parts[p].plan));
  for (int64_t step = 0; step < most_steps; ++step) {
    int64_t first_position = 0;
    for (uint32_t p = 0; p < set.num_parts; ++p) {
      const CopyParams& part = set.parts[p];
      HICACHE_CHECK(kLayout, part.num_positions < kMaxUnits - first_position,
                    "more than 2^31 positions in one copy: part=", p,
                    " num_positions=", part.num_positions);
      if (step < num_steps(part.plan)) passes.add(part, step, max_segment_bytes, first_position);
      first_position += part.num_positions;
    }
  }
  passes.flush();
}

}  // namespace hicache
