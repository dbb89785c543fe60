// Copies on the streams of the emulated CUDA, for the sanitizers: every executor against the
// reference in buffers of exactly the right size, failures at every call, and many callers that
// share streams, the memory for page ids and the staging ring.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>

#include "copy_cases.h"
#include "hicache/check.h"
#include "hicache/cuda_copy.h"
#include "hicache/cuda_emulator.h"

using namespace hicache;
using namespace hicache::testing;

namespace {

const char* const kNames[] = {"sm_reg", "sm_bulk", "ce_batch", "staged"};  // of CudaExecutor

int num_failed = 0;

void expect(bool condition, const char* what, unsigned seed, const char* name) {
  if (condition) return;
  ++num_failed;
  std::printf("seed %u %s: %s\n", seed, name, what);
}

std::shared_ptr<CudaEmulator> make_emulator(unsigned seed) {
  const DeviceTraits traits{8, 9, 227 << 10, false};
  return std::make_shared<CudaEmulator>(EmulatorOptions{seed, 1, traits, seed % 4 != 0, -1});
}

// A buffer on the device, or on the host in a registration of its own.
class Buffer {
 public:
  Buffer(CudaEmulator& cuda, int64_t num_bytes, bool on_host)
      : size(static_cast<size_t>(num_bytes)), heap_(on_host ? new std::byte[size] : nullptr) {
    data = on_host ? heap_.get() : cuda.allocate_device(size);
    if (on_host) cuda.register_host(data, size);
    std::memset(data, 0xee, size);
  }

  size_t size;
  std::byte* data;

 private:
  std::unique_ptr<std::byte[]> heap_;
};

PageIds ids_of(const std::vector<int64_t>& ids) {
  return {ids.data(), IdWidth::kInt64, IdPlace::kHost};
}

// A random copy: buffers, and what the destination must be.
struct Copy {
  Copy(CudaEmulator& cuda, CudaExecutor executor) {
    do {
      drawn = draw_case(static_cast<int>(draw(0, kNumLayouts * kNumLayouts - 1)));
      plan = make_plan(drawn.src, drawn.dst, drawn.window, Ascending::kSource);
    } while (executor == CudaExecutor::kSmBulk && plan.align_bytes % 16 != 0);
    const int64_t where = executor == CudaExecutor::kStaged ? draw(1, 2) : draw(0, 3);
    src = std::make_unique<Buffer>(cuda, bytes_of(drawn.src), (where & 1) != 0);
    dst = std::make_unique<Buffer>(cuda, bytes_of(drawn.dst), (where & 2) != 0);
    for (size_t i = 0; i < src->size; ++i) src->data[i] = static_cast<std::byte>(draw(0, 255));
    expected.assign(dst->data, dst->data + dst->size);
    src_planes = planes_of(drawn.src, src->data);
    dst_planes = planes_of(drawn.dst, expected.data());
    set.num_parts = 1;
    set.parts[0] = {plan,
                    src->data,
                    expected.data(),
                    data_of(src_planes),
                    data_of(dst_planes),
                    ids_of(drawn.src_ids),
                    ids_of(drawn.dst_ids),
                    static_cast<int64_t>(drawn.src_ids.size())};
    copy_cpu_ref(set);
    dst_planes = planes_of(drawn.dst, dst->data);
    set.parts[0].dst = dst->data;
    set.parts[0].dst_planes = data_of(dst_planes);
  }

  bool is_there() const { return std::memcmp(dst->data, expected.data(), dst->size) == 0; }

  Case drawn;
  Plan plan;
  std::unique_ptr<Buffer> src, dst;
  std::vector<std::byte> expected;
  std::vector<uint64_t> src_planes, dst_planes;
  CopySet set{};
};

CudaCopyOptions options_for(CudaExecutor executor, CudaStream stream, const Copy& copy,
                            const std::shared_ptr<CudaEmulator>& cuda) {
  CudaCopyOptions options{executor, 0, static_cast<int>(draw(0, 3)), stream, {}, nullptr};
  if (draw(0, 2) == 0) options.priority = StreamPriority::kHigh;
  if (executor != CudaExecutor::kStaged) return options;
  const int64_t page = page_bytes(copy.plan) + 15;
  const auto num_bytes = static_cast<size_t>(2 * draw(1, 3) * page + 1024);
  options.ring = std::make_shared<StagingRing>(cuda, 0, nullptr, num_bytes);
  return options;
}

void run_case(unsigned seed) {
  const auto executor = static_cast<CudaExecutor>(seed % 4);
  const char* const name = kNames[seed % 4];
  const auto cuda = make_emulator(seed);
  replace_cuda_api(cuda);
  const Copy copy(*cuda, executor);
  const CudaStream stream = cuda->create_stream(StreamPriority::kLow);
  const CudaCopyOptions options = options_for(executor, stream, copy, cuda);
  copy_on_stream(copy.set, options)->result();
  expect(copy.is_there(), "the destination differs from the reference", seed, name);

  for (int64_t nth = 0;; ++nth) {
    cuda->fail_call_after(nth);
    try {
      copy_on_stream(copy.set, options);
      break;
    } catch (const Error& error) {
      expect(error.kind() == ErrorKind::kCuda, error.what(), seed, name);
    }
    expect(cuda->num_pending() == 0, "work is in flight after an error", seed, name);
  }
  replace_cuda_api(nullptr);
}

// Four threads, one stream and one ring: each has its own pages, and all of them come out right.
void run_threads(unsigned seed) {
  const auto cuda = make_emulator(seed);
  replace_cuda_api(cuda);
  const CudaStream stream = cuda->create_stream(StreamPriority::kLow);
  std::vector<std::unique_ptr<Copy>> copies;
  std::vector<CudaExecutor> executors;
  for (int i = 0; i < 8; ++i) {
    executors.push_back(i % 2 == 0 ? CudaExecutor::kStaged : static_cast<CudaExecutor>(i / 2 % 3));
    copies.push_back(std::make_unique<Copy>(*cuda, executors.back()));
  }
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread)
    threads.emplace_back([&, thread] {
      for (int i = thread; i < 8; i += 4) {
        const CudaCopyOptions options{executors[i], 0, 1, stream, StreamPriority::kHigh, nullptr};
        copy_on_stream(copies[i]->set, options)->result();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& copy : copies)
    expect(copy->is_there(), "one of many callers", seed, "staged and others");
  replace_cuda_api(nullptr);
}

}  // namespace

int main() {
  for (unsigned seed = 0; seed < 60; ++seed) {
    rng.seed(seed);
    run_case(seed);
  }
  for (unsigned seed = 100; seed < 106; ++seed) {
    rng.seed(seed);
    run_threads(seed);
  }
  std::printf("test_cuda_copy: %d failed\n", num_failed);
  return num_failed == 0 ? 0 : 1;
}
