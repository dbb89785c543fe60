// The executors on a stream, with the nvcc-built kernels, against copy_cpu_ref(): on a GPU, or
// through a simulator of one.
// Usage: test_copy SEED. Each executor meets a third of all pairs of layouts: three seeds in a row
// are all of them. Prints each failing case with what replays it; exits 0 if there is none.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "../cpp/copy_cases.h"
#include "hicache/check.h"
#include "hicache/cuda_check.h"
#include "hicache/cuda_copy.h"

using namespace hicache;
using namespace hicache::testing;

namespace {

constexpr int64_t kGuardBytes = 64;
constexpr std::byte kGuard{0xa5}, kPoison{0xee};

const char* const kNames[] = {"sm_reg", "sm_bulk", "ce_batch", "staged"};  // of CudaExecutor

int num_failed = 0;

void expect(bool condition, const char* what, int case_idx) {
  if (condition) return;
  ++num_failed;
  std::printf("case %d, %s: %s\n", case_idx, kNames[case_idx % 4], what);
}

// Device or pinned memory with guard bytes around, at an odd place, and its copy on the host.
class Buffer {
 public:
  Buffer(int64_t num_bytes, int64_t misalign, bool on_host)
      : begin_(kGuardBytes + misalign), host(num_bytes), all_(num_bytes + 2 * kGuardBytes + 16) {
    HICACHE_CUDA_CHECK(on_host ? cudaMallocHost(&memory_, all_) : cudaMalloc(&memory_, all_));
    on_host_ = on_host;
  }
  ~Buffer() { on_host_ ? cudaFreeHost(memory_) : cudaFree(memory_); }

  std::byte* address() const { return static_cast<std::byte*>(memory_) + begin_; }

  void upload() {
    std::vector<std::byte> image(all_, kGuard);
    std::memcpy(image.data() + begin_, host.data(), host.size());
    HICACHE_CUDA_CHECK(cudaMemcpy(memory_, image.data(), all_, cudaMemcpyDefault));
  }

  // Whether the memory is `host` between untouched guards.
  bool equals_host() const {
    std::vector<std::byte> image(all_), wanted(all_, kGuard);
    std::memcpy(wanted.data() + begin_, host.data(), host.size());
    HICACHE_CUDA_CHECK(cudaMemcpy(image.data(), memory_, all_, cudaMemcpyDefault));
    return image == wanted;
  }

 private:
  void* memory_ = nullptr;
  int64_t begin_;
  bool on_host_;

 public:
  std::vector<std::byte> host;

 private:
  size_t all_;
};

// The same ids for host and device, in one of the two widths.
class Ids {
 public:
  Ids(const std::vector<int64_t>& values, IdWidth width, IdPlace place) {
    for (const int64_t value : values) {
      const auto* bytes = reinterpret_cast<const std::byte*>(&value);
      host_.insert(host_.end(), bytes, bytes + static_cast<int>(width));  // little endian
    }
    on_host = {host_.data(), width, IdPlace::kHost};
    on_either = on_host;
    if (place == IdPlace::kHost || host_.empty()) return;
    HICACHE_CUDA_CHECK(cudaMalloc(&device_, host_.size()));
    HICACHE_CUDA_CHECK(cudaMemcpy(device_, host_.data(), host_.size(), cudaMemcpyHostToDevice));
    on_either = {device_, width, IdPlace::kDevice};
  }
  ~Ids() { cudaFree(device_); }

  PageIds on_host, on_either;

 private:
  std::vector<std::byte> host_;
  void* device_ = nullptr;
};

CopySet one_part(const CopyParams& part) {
  CopySet set{};
  set.parts[set.num_parts++] = part;
  return set;
}

bool is_kernel(CudaExecutor executor) {
  return executor == CudaExecutor::kSmReg || executor == CudaExecutor::kSmBulk;
}

// A case that sm_bulk moves, too, if it must.
Case draw_case_for(CudaExecutor executor, int pair, Plan& plan) {
  for (;;) {
    Case drawn = draw_case(pair);
    plan = make_plan(drawn.src, drawn.dst, drawn.window, Ascending::kDestination);
    if (executor != CudaExecutor::kSmBulk || plan.align_bytes % 16 == 0) return drawn;
  }
}

int64_t num_positions(const Case& c) { return static_cast<int64_t>(c.src_ids.size()); }

// Makes dst.host what the destination must be; returns the bytes moved.
int64_t copy_reference(const Case& c, const Plan& plan, Buffer& src, Buffer& dst,
                       const PageIds& src_ids, const PageIds& dst_ids) {
  const auto src_planes = planes_of(c.src, src.host.data());
  const auto dst_planes = planes_of(c.dst, dst.host.data());
  copy_cpu_ref(one_part({plan, src.host.data(), dst.host.data(), data_of(src_planes),
                         data_of(dst_planes), src_ids, dst_ids, num_positions(c)}));
  int64_t num_copied = 0;
  for (size_t i = 0; i < c.src_ids.size(); ++i)
    num_copied += c.src_ids[i] >= 0 && c.dst_ids[i] >= 0;
  return num_copied * page_bytes(plan);
}

// Runs one case on the device; with `bad_side` 0 or 1 an id of that side is out of range, which
// only kernels can meet.
void run_case(int case_idx, CudaExecutor executor, int pair, int bad_side) {
  Plan plan;
  Case c = draw_case_for(executor, pair, plan);
  const auto misalign = [&](int64_t odd) {
    return executor == CudaExecutor::kSmBulk ? pick<int64_t>({0, 16}) : pick<int64_t>({0, 4, odd});
  };
  const int in_pinned = executor == CudaExecutor::kStaged ? static_cast<int>(draw(1, 2))
                                                          : static_cast<int>(draw(0, 3));
  Buffer src(bytes_of(c.src), misalign(3), (in_pinned & 1) != 0);
  Buffer dst(bytes_of(c.dst), misalign(5), (in_pinned & 2) != 0);
  for (auto& value : src.host) value = static_cast<std::byte>(draw(0, 255));
  std::fill(dst.host.begin(), dst.host.end(), kPoison);
  src.upload();
  dst.upload();

  auto bad_src = c.src_ids, bad_dst = c.dst_ids;
  const int64_t bad_at = draw(0, static_cast<int64_t>(c.dst_ids.size()) - 1);
  const int64_t bad_value = (bad_side == 1 ? c.dst : c.src).num_pages + pick<int64_t>({0, 0, 1000});
  if (bad_side >= 0) {
    c.src_ids[bad_at] = -1;  // the reference skips it
    (bad_side == 1 ? bad_dst : bad_src)[bad_at] = bad_value;
  }
  const auto width = [] { return pick({IdWidth::kInt32, IdWidth::kInt64}); };
  const auto place = [&] {
    if (!is_kernel(executor)) return IdPlace::kHost;
    return bad_side < 0 ? pick({IdPlace::kHost, IdPlace::kDevice}) : IdPlace::kDevice;
  };
  const Ids good_src(c.src_ids, width(), IdPlace::kHost),
      good_dst(c.dst_ids, width(), IdPlace::kHost);
  const Ids src_ids(bad_side < 0 ? c.src_ids : bad_src, width(), place());
  const Ids dst_ids(bad_side < 0 ? c.dst_ids : bad_dst, width(), place());
  const int64_t num_bytes = copy_reference(c, plan, src, dst, good_src.on_host, good_dst.on_host);

  const auto src_there = planes_of(c.src, src.address()),
             dst_there = planes_of(c.dst, dst.address());
  cudaStream_t stream;
  HICACHE_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  std::string raised;
  int64_t moved = -1;
  try {
    const CudaCopyOptions options{executor,     0,      static_cast<int>(draw(0, 3)), stream,
                                  std::nullopt, nullptr};
    const auto ticket = copy_on_stream(
        one_part({plan, src.address(), dst.address(), data_of(src_there), data_of(dst_there),
                  src_ids.on_either, dst_ids.on_either, num_positions(c)}),
        options);
    ticket->wait();
    expect(ticket->query(), "a ticket that was waited for is not done", case_idx);
    moved = ticket->result();
  } catch (const Error& error) {
    raised = error.what();
  }
  expect(dst.equals_host(), "the destination differs from the reference", case_idx);
  expect(src.equals_host(), "the source was written", case_idx);
  if (bad_side < 0) {
    expect(raised.empty(), raised.c_str(), case_idx);
    expect(moved == num_bytes, "bytes moved", case_idx);
  } else {
    const std::string wanted = std::string(bad_side == 1 ? "destination" : "source") +
                               " page id out of range: position=" + std::to_string(bad_at) +
                               " value=" + std::to_string(bad_value);
    expect(raised.rfind(wanted, 0) == 0, ("wanted: " + wanted + ", got: " + raised).c_str(),
           case_idx);
  }
  HICACHE_CUDA_CHECK(cudaStreamDestroy(stream));
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned seed = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 0;
  constexpr int kPairs = kNumLayouts * kNumLayouts / 3, kNumCases = 4 * kPairs;
  for (int i = 0; i < kNumCases; ++i) {
    rng.seed(seed * 1000 + static_cast<unsigned>(i));
    const auto executor = static_cast<CudaExecutor>(i % 4);
    const int pair = static_cast<int>(seed) * kPairs + i / 4;
    run_case(i, executor, pair, is_kernel(executor) && i % 3 == 0 ? i % 2 : -1);
  }
  std::printf("test_copy: seed %u, %d cases, %d failed\n", seed, kNumCases, num_failed);
  return num_failed == 0 ? 0 : 1;
}
