// Stores that bypass the caches: a copy of many pages would otherwise read every line that it
// overwrites.
#include "wide_copy.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hicache {

namespace {

// Up to here a copy is likely read soon from the cache that it stays in, its source beside it.
int64_t max_cached_bytes() {
  static const int64_t cache_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return cache_bytes > 0 ? cache_bytes / 4 : int64_t{8} << 20;
}

}  // namespace

CopyStripFn widest_copy(int64_t num_bytes) {
  return num_bytes > max_cached_bytes() ? streaming(resolve_isa(Isa::kAuto)) : copy_strip;
}

void copy_strip(const Strip& strip) {
  const std::byte* src = strip.src;
  std::byte* dst = strip.dst;
  for (uint32_t run = 0; run < strip.num_runs; ++run, src += strip.src_step, dst += strip.dst_step)
    std::memcpy(dst, src, static_cast<size_t>(strip.run_bytes));
}

#if defined(__x86_64__)

namespace {

constexpr int64_t kLine = 64;
// A run that does not consist of whole lines costs more streamed than stored if it is shorter.
constexpr int64_t kShortestRagged = 4 * kLine;

bool is_worth_streaming(const Strip& strip) {
  const auto dst = static_cast<int64_t>(reinterpret_cast<uintptr_t>(strip.dst));
  return strip.run_bytes >= kShortestRagged ||
         (dst | strip.dst_step | strip.run_bytes) % kLine == 0;
}

// The hardware follows a source that goes on; where the next run lies elsewhere, only we know it.
class Prefetcher {
 public:
  explicit Prefetcher(const Strip& strip)
      : ahead_(strip.src),
        step_(strip.src_step),
        num_bytes_(std::min(strip.run_bytes, kMostBytes)),
        num_left_(strip.src_step == strip.run_bytes ? 0 : int64_t{strip.num_runs} - kRunsAhead) {
    for (int run = 0; run < kRunsAhead; ++run) ahead_ += step_;
  }

  void next_run() {
    if (num_left_-- <= 0) return;
    for (int64_t at = 0; at < num_bytes_; at += kLine) _mm_prefetch(ahead_ + at, _MM_HINT_T1);
    ahead_ += step_;
  }

 private:
  // Into L2: runs that are a power of two apart would push each other out of L1.
  static constexpr int kRunsAhead = 4;
  static constexpr int64_t kMostBytes = 2048;

  const std::byte* ahead_;
  int64_t step_;
  int64_t num_bytes_;
  int64_t num_left_;
};

// Calls stream_lines(dst, src, num_lines) for the whole lines of every run.
template <class StreamLines>
[[gnu::always_inline]] inline void stream_strip(const Strip& strip, StreamLines stream_lines) {
  if (!is_worth_streaming(strip)) return copy_strip(strip);
  Prefetcher prefetcher(strip);
  const std::byte* src = strip.src;
  std::byte* dst = strip.dst;
  for (uint32_t run = 0; run < strip.num_runs;
       ++run, src += strip.src_step, dst += strip.dst_step) {
    prefetcher.next_run();
    const int64_t to_line = -static_cast<int64_t>(reinterpret_cast<uintptr_t>(dst)) & (kLine - 1);
    const int64_t num_lines = (strip.run_bytes - to_line) / kLine;
    const int64_t tail = to_line + num_lines * kLine;
    if (to_line > 0) std::memcpy(dst, src, static_cast<size_t>(to_line));
    stream_lines(dst + to_line, src + to_line, num_lines);
    if (tail < strip.run_bytes)
      std::memcpy(dst + tail, src + tail, static_cast<size_t>(strip.run_bytes - tail));
  }
}

__attribute__((target("avx2"))) void stream_strip_avx2(const Strip& strip) {
  stream_strip(strip, [](std::byte* dst, const std::byte* src,
                         int64_t num_lines) __attribute__((target("avx2"))) {
    auto* to = reinterpret_cast<__m256i*>(dst);
    const auto* from = reinterpret_cast<const __m256i*>(src);
    for (; num_lines > 0; --num_lines, to += 2, from += 2) {
      const __m256i low = _mm256_loadu_si256(from), high = _mm256_loadu_si256(from + 1);
      _mm256_stream_si256(to, low);
      _mm256_stream_si256(to + 1, high);
    }
  });
}

__attribute__((target("avx512f"))) void stream_strip_avx512(const Strip& strip) {
  stream_strip(strip, [](std::byte* dst, const std::byte* src,
                         int64_t num_lines) __attribute__((target("avx512f"))) {
    for (; num_lines > 0; --num_lines, dst += kLine, src += kLine)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(dst), _mm512_loadu_si512(src));
  });
}

}  // namespace

CopyStripFn streaming(Isa isa) {
  if (isa == Isa::kAvx512) return stream_strip_avx512;
  return isa == Isa::kAvx2 ? stream_strip_avx2 : copy_strip;
}

void finish_streaming() { _mm_sfence(); }

#else

CopyStripFn streaming(Isa) { return copy_strip; }

void finish_streaming() {}

#endif

}  // namespace hicache
