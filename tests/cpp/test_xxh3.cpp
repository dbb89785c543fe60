// XXH3-128 for the sanitizers: messages that end where their heap block ends, whole and in pieces.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>

#include "hicache/xxh3.h"

using namespace hicache;

namespace {

bool operator==(const Hash128& a, const Hash128& b) { return a.low == b.low && a.high == b.high; }

int num_failed = 0;

void expect(bool condition, const char* what, int64_t num_bytes) {
  if (condition) return;
  ++num_failed;
  std::printf("%lld bytes: %s\n", static_cast<long long>(num_bytes), what);
}

void run_length(int64_t num_bytes, std::mt19937& rng) {
  const std::unique_ptr<std::byte[]> data(new std::byte[static_cast<size_t>(num_bytes)]);
  for (int64_t i = 0; i < num_bytes; ++i) data[i] = static_cast<std::byte>(rng());
  const Hash128 expected = xxh3_128(data.get(), num_bytes, 11, Isa::kPortable);
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (!has_isa(isa)) continue;
    expect(xxh3_128(data.get(), num_bytes, 11, isa) == expected, "differs from portable",
           num_bytes);
    if (num_bytes <= kXxh3MaxShortBytes) continue;
    Xxh3Long pieces(11, isa);
    for (int64_t done = 0, piece; done < num_bytes; done += piece) {
      piece = std::min<int64_t>(rng() % (done % 3 == 0 ? 65 : 700), num_bytes - done);
      pieces.update(data.get() + done, piece);
    }
    expect(pieces.finish() == expected, "in pieces differs", num_bytes);
  }
}

}  // namespace

int main() {
  std::mt19937 rng(1);
  for (int64_t num_bytes = 0; num_bytes < 1500; ++num_bytes) run_length(num_bytes, rng);
  for (int i = 0; i < 40; ++i) run_length(2000 + static_cast<int64_t>(rng() % 20000), rng);
  std::printf("test_xxh3: %d failed\n", num_failed);
  return num_failed == 0 ? 0 : 1;
}
