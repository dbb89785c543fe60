// Copies of pages for the sanitizers: buffers of exactly the right size on the heap, so that a byte
// too far is seen, every executor and the kernel's loop body against the reference, many callers at
// once.
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>

#include "copy_cases.h"
#include "copy_expect.h"
#include "hicache/copy.h"
#include "hicache/copy_emulator.h"
#include "hicache/thread_pool.h"

using namespace hicache;
using namespace hicache::testing;

namespace {

// Stepping along a strip arrives where locate_run() says.
void expect_strips(const CopyParams& part, int case_idx) {
  const int64_t src_page = part.plan.src_num_pages - 1, dst_page = part.plan.dst_num_pages - 1;
  for (uint32_t run = 0; run < part.plan.runs_per_page;) {
    Strip strip = locate_strip(part, src_page, dst_page, run);
    expect(strip.num_runs >= 1 && run + strip.num_runs <= part.plan.runs_per_page,
           "a strip leaves its page", case_idx);
    for (uint32_t i = 0; i < strip.num_runs; ++i, ++run) {
      const RunAddress at = locate_run(part, src_page, dst_page, run);
      expect(at.src == strip.src && at.dst == strip.dst, "a strip misses a run", case_idx);
      const Strip rest = locate_strip(part, src_page, dst_page, run);
      expect(rest.num_runs == strip.num_runs - i, "a strip ends elsewhere", case_idx);
      strip.src += strip.src_step;
      strip.dst += strip.dst_step;
    }
  }
}

// The loop bodies of the kernels, where they may read and write.
void emulate_kernels(const Case& c, CopySet set, const Bytes& src, const Bytes& expected,
                     int case_idx) {
  const bool is_for_bulk = set.parts[0].plan.align_bytes % 16 == 0;  // as new[] aligns
  for (const EmulatedShape shape :
       {EmulatedShape::kShortRun, EmulatedShape::kLongRun, EmulatedShape::kBulk}) {
    if (shape == EmulatedShape::kBulk && !is_for_bulk) continue;
    Bytes emulated(static_cast<int64_t>(expected.size));
    std::vector<uint8_t> num_writes(expected.size);
    const auto planes = planes_of(c.dst, emulated.data.get());
    set.parts[0].dst = emulated.data.get();
    set.parts[0].dst_planes = data_of(planes);
    const EmulatedLaunch launch{shape, static_cast<uint32_t>(draw(1, 3)),
                                pick<int64_t>({1, 50, 1 << 20}), pick<uint32_t>({1, 128})};
    const Emulation seen = emulate_copy(set, {src.data.get(), static_cast<int64_t>(src.size)},
                                        {emulated.data.get(), static_cast<int64_t>(emulated.size)},
                                        launch, num_writes.data());
    expect(emulated == expected, "a kernel's loop body differs from cpu_ref", case_idx);
    expect(seen.num_outside == 0 && seen.num_misaligned == 0, "outside or misaligned", case_idx);
    expect(*std::max_element(num_writes.begin(), num_writes.end()) <= 1, "written twice", case_idx);
  }
}

void run_case(int case_idx) {
  const Case c = draw_case(case_idx);
  const Plan plan =
      make_plan(c.src, c.dst, c.window, pick({Ascending::kSource, Ascending::kDestination}));
  Bytes src(bytes_of(c.src)), expected(bytes_of(c.dst)), threaded(bytes_of(c.dst));
  for (size_t i = 0; i < src.size; ++i) src.data[i] = static_cast<std::byte>(draw(0, 255));
  const auto src_planes = planes_of(c.src, src.data.get());
  const auto dst_planes = planes_of(c.dst, expected.data.get());
  const PageIds src_ids{c.src_ids.data(), IdWidth::kInt64, IdPlace::kHost};
  const PageIds dst_ids{c.dst_ids.data(), IdWidth::kInt64, IdPlace::kHost};
  CopySet set{};
  set.parts[set.num_parts++] = {plan,
                                src.data.get(),
                                expected.data.get(),
                                data_of(src_planes),
                                data_of(dst_planes),
                                src_ids,
                                dst_ids,
                                static_cast<int64_t>(c.src_ids.size())};
  check_page_ids(set);
  copy_cpu_ref(set);
  expect_strips(set.parts[0], case_idx);
  for (const Isa isa : {Isa::kAuto, Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (!has_isa(isa)) continue;
    std::memset(threaded.data.get(), 0xee, threaded.size);
    const auto planes = planes_of(c.dst, threaded.data.get());
    set.parts[0].dst = threaded.data.get();
    set.parts[0].dst_planes = data_of(planes);
    copy_cpu(set, static_cast<int>(draw(1, 4)), isa);
    expect(threaded == expected, "cpu differs from cpu_ref", case_idx);
  }

  emulate_kernels(c, set, src, expected, case_idx);
}

// More than a cache holds.
void run_large_case() {
  PageLayout like{};
  like.page_size = 1, like.num_layers = 2, like.num_kv = 2, like.num_heads = 1, like.num_groups = 1;
  like.head_bytes = 701;  // runs begin at every alignment
  const PageLayout src_layout = make_layout(0, 4200, like), dst_layout = make_layout(4, 4200, like);
  const Plan plan =
      make_plan(src_layout, dst_layout, {0, 2, 0, 2, 0, 1, 0, 1}, Ascending::kDestination);
  Bytes src(bytes_of(src_layout)), expected(src.size), threaded(src.size);
  for (size_t i = 0; i < src.size; ++i) src.data[i] = static_cast<std::byte>(i * 2654435761u >> 24);
  std::vector<int32_t> ids(4200);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  std::shuffle(ids.begin(), ids.end(), rng);
  const PageIds shuffled{ids.data(), IdWidth::kInt32, IdPlace::kHost};
  CopySet set{};
  set.parts[set.num_parts++] = {
      plan, src.data.get(), expected.data.get(), nullptr, nullptr, shuffled, shuffled, 4200};
  copy_cpu_ref(set);
  set.parts[0].dst = threaded.data.get();
  copy_cpu(set, 3, Isa::kAuto);
  expect(threaded == expected, "a large copy differs from cpu_ref", -1);
}

// Several callers share the pool; every task runs once and before its caller returns.
void run_many_callers() {
  std::vector<std::thread> callers;
  std::vector<int> num_wrong(4);
  for (size_t caller = 0; caller < num_wrong.size(); ++caller)
    callers.emplace_back([&num_wrong, caller] {
      for (int round = 0; round < 200; ++round) {
        std::vector<int> runs(17);
        parallel_for(17, 3, [&](int64_t task) { ++runs[static_cast<size_t>(task)]; });
        num_wrong[caller] += std::count(runs.begin(), runs.end(), 1) != 17;
      }
    });
  for (auto& caller : callers) caller.join();
  for (const int wrong : num_wrong) expect(wrong == 0, "a task ran twice or too late", -2);
}

}  // namespace

int main() {
  for (int i = 0; i < 2 * kNumLayouts * kNumLayouts; ++i) {
    rng.seed(static_cast<unsigned>(i));
    run_case(i);
  }
  run_large_case();
  run_many_callers();
  std::printf("test_copy: %d failed\n", num_failed);
  return num_failed == 0 ? 0 : 1;
}
