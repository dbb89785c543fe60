// Copies of pages on the CPU: the reference, and threads with wide stores.
#include "hicache/copy.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "hicache/check.h"
#include "hicache/copy_pass.h"
#include "hicache/thread_pool.h"
#include "wide_copy.h"

namespace hicache {
namespace {

constexpr int64_t kTaskBytes = int64_t{1} << 20;

// Copies the units [begin, end).
void copy_units(const CopyParams& params, const Tiling& tiling, uint32_t begin, uint32_t end,
                CopyStripFn copy_strip) {
  for (uint32_t i = begin; i < end;) {
    const Unit unit = locate_unit(params.plan, tiling, i);
    const int64_t src_page = params.src_ids.at(unit.position);
    const int64_t dst_page = params.dst_ids.at(unit.position);
    if (src_page < 0 || dst_page < 0) {
      ++i;
      continue;
    }
    Strip strip = locate_strip(params, src_page, dst_page, unit.run);
    strip.src += unit.begin;
    strip.dst += unit.begin;
    strip.run_bytes = unit.num_bytes;
    strip.num_runs = tiling.segments_per_run.divisor > 1 ? 1 : std::min(strip.num_runs, end - i);
    copy_strip(strip);
    i += strip.num_runs;
  }
}

// About kTaskBytes of one part.
struct Task {
  uint32_t part;
  uint32_t begin, end;  // units of the part
};

std::vector<Task> tasks_of(const Pass& pass) {
  std::vector<Task> tasks;
  for (uint32_t part = 0; part < pass.set.num_parts; ++part) {
    const auto units_per_task =
        static_cast<uint32_t>(std::max<int64_t>(1, kTaskBytes / pass.tilings[part].segment_bytes));
    const uint32_t num_units = pass.unit_ends[part] - pass.first_unit(part);
    for (uint32_t begin = 0; begin < num_units; begin += units_per_task)
      tasks.push_back({part, begin, std::min(begin + units_per_task, num_units)});
  }
  return tasks;
}

int64_t num_bytes(const CopySet& set) {
  int64_t sum = 0;
  for (uint32_t part = 0; part < set.num_parts; ++part)
    sum += set.parts[part].num_positions * page_bytes(set.parts[part].plan);
  return sum;
}

constexpr int64_t kOrderedPageBytes = int64_t{32} << 10;

// Whether the pages of a side lie interleaved, as those of layer_first do: one page touches as many
// places as it has layers, its neighbour the places beside them.
bool interleaved(const Plan& plan, int64_t page_stride, const uint64_t* planes) {
  return plan.num_axes > 0 && (planes != nullptr || page_stride < page_bytes(plan));
}

// The set with the positions of each part in the order of the page ids of its interleaved side, so
// that the pages copied in a row share their TLB entries and DRAM rows: shuffled ids cost a tenth
// to a quarter of the bandwidth otherwise. Where pages are small, the sort costs more than it
// saves.
class OrderedSet {
 public:
  explicit OrderedSet(const CopySet& set) : set_(set) {
    for (uint32_t p = 0; p < set.num_parts; ++p) {
      const CopyParams& part = set.parts[p];
      const Plan& plan = part.plan;
      if (page_bytes(plan) < kOrderedPageBytes) continue;
      if (interleaved(plan, plan.src_page_stride, part.src_planes))
        order(p, part.src_ids);
      else if (interleaved(plan, plan.dst_page_stride, part.dst_planes))
        order(p, part.dst_ids);
    }
  }
  OrderedSet(const OrderedSet&) = delete;
  OrderedSet& operator=(const OrderedSet&) = delete;

  const CopySet& get() const { return set_; }

 private:
  struct Pair {
    int64_t key, src, dst;
  };

  static bool ascends(const PageIds& ids, int64_t count) {
    for (int64_t i = 1; i < count; ++i)
      if (ids.at(i) < ids.at(i - 1)) return false;
    return true;
  }

  void order(uint32_t p, const PageIds& by) {
    CopyParams& part = set_.parts[p];
    if (ascends(by, part.num_positions)) return;
    std::vector<Pair> pairs(static_cast<size_t>(part.num_positions));
    for (int64_t i = 0; i < part.num_positions; ++i)
      pairs[static_cast<size_t>(i)] = {by.at(i), part.src_ids.at(i), part.dst_ids.at(i)};
    const auto before = [](const Pair& a, const Pair& b) { return a.key < b.key; };
    std::sort(pairs.begin(), pairs.end(), before);
    std::vector<int64_t>& ids = ids_[p];
    ids.resize(2 * pairs.size());
    for (size_t i = 0; i < pairs.size(); ++i) {
      ids[i] = pairs[i].src;
      ids[pairs.size() + i] = pairs[i].dst;
    }
    part.src_ids = {ids.data(), IdWidth::kInt64, IdPlace::kHost};
    part.dst_ids = {ids.data() + pairs.size(), IdWidth::kInt64, IdPlace::kHost};
  }

  CopySet set_;
  std::vector<int64_t> ids_[kMaxParts];  // sources, then destinations
};

void copy_all_runs(const CopyParams& params) {
  for (int64_t i = 0; i < params.num_positions; ++i) {
    const int64_t src_page = params.src_ids.at(i), dst_page = params.dst_ids.at(i);
    if (src_page < 0 || dst_page < 0) continue;
    for (int64_t run = 0; run < params.plan.runs_per_page; ++run) {
      const RunAddress at = locate_run(params, src_page, dst_page, static_cast<uint32_t>(run));
      std::memcpy(at.dst, at.src, static_cast<size_t>(params.plan.run_bytes));
    }
  }
}

}  // namespace

void copy_cpu_ref(const CopySet& set) {
  for (uint32_t p = 0; p < set.num_parts; ++p) {
    const CopyParams& part = set.parts[p];
    const Slices slices(part.plan, kMaxUnits - 1);
    CopyParams box = part;
    for (int64_t slice = 0; slice < slices.size(); ++slice) {
      box.plan = slices.at(slice);
      copy_all_runs(box);
    }
  }
}

void copy_cpu(const CopySet& set, int num_threads, Isa isa) {
  const CopyStripFn copy_strip =
      isa == Isa::kAuto ? widest_copy(num_bytes(set)) : streaming(resolve_isa(isa));
  const OrderedSet ordered(set);
  for_each_pass(ordered.get(), kTaskBytes, [&](const Pass& pass) {
    const std::vector<Task> tasks = tasks_of(pass);
    parallel_for(static_cast<int64_t>(tasks.size()), num_threads, [&](int64_t i) {
      const Task& task = tasks[static_cast<size_t>(i)];
      copy_units(pass.set.parts[task.part], pass.tilings[task.part], task.begin, task.end,
                 copy_strip);
      finish_streaming();
    });
  });
}

}  // namespace hicache
