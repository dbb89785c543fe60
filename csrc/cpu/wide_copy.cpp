// Stores that bypass the caches: a copy of many pages would otherwise read every line that it
// overwrites.
#include "wide_copy.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hicache {
namespace {

#if defined(__x86_64__)
constexpr int64_t kLine = 64;
// A run shorter than this has too few whole lines to be worth it.
constexpr int64_t kShortestStream = 4 * kLine;

__attribute__((target("avx2"))) void copy_run_avx2(std::byte* dst, const std::byte* src,
                                                   int64_t num_bytes) {
  if (num_bytes < kShortestStream) {
    std::memcpy(dst, src, static_cast<size_t>(num_bytes));
    return;
  }
  const int64_t head = -reinterpret_cast<intptr_t>(dst) & (kLine - 1);
  std::memcpy(dst, src, static_cast<size_t>(head));
  dst += head, src += head, num_bytes -= head;
  for (; num_bytes >= 2 * kLine; dst += 2 * kLine, src += 2 * kLine, num_bytes -= 2 * kLine) {
    const auto* from = reinterpret_cast<const __m256i*>(src);
    auto* to = reinterpret_cast<__m256i*>(dst);
    const __m256i a = _mm256_loadu_si256(from), b = _mm256_loadu_si256(from + 1);
    const __m256i c = _mm256_loadu_si256(from + 2), d = _mm256_loadu_si256(from + 3);
    _mm256_stream_si256(to, a);
    _mm256_stream_si256(to + 1, b);
    _mm256_stream_si256(to + 2, c);
    _mm256_stream_si256(to + 3, d);
  }
  std::memcpy(dst, src, static_cast<size_t>(num_bytes));
}
#endif

}  // namespace

CopyRunFn streaming_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") ? copy_run_avx2 : nullptr;
#else
  return nullptr;
#endif
}

void copy_run_portable(std::byte* dst, const std::byte* src, int64_t num_bytes) {
  std::memcpy(dst, src, static_cast<size_t>(num_bytes));
}

void finish_streaming() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace hicache
