// Page keys for the sanitizers: every length in a buffer that ends where the data does, at odd
// addresses, by every implementation.
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "hicache/sha256.h"

using namespace hicache;

namespace {

using Digest = std::vector<uint8_t>;

int num_failed = 0;

// A copy on the heap whose last byte is the last of its block, `offset` bytes into it.
struct Exact {
  Exact(const uint8_t* from, size_t num_bytes, size_t offset)
      : block(new uint8_t[offset + num_bytes]), data(block.get() + offset) {
    if (num_bytes > 0) std::memcpy(data, from, num_bytes);
  }
  std::unique_ptr<uint8_t[]> block;
  uint8_t* data;
};

Digest digest(const uint8_t* data, size_t num_bytes, Sha256Impl impl) {
  Digest out(kSha256Bytes);
  sha256(data, num_bytes, out.data(), impl);
  return out;
}

void expect(bool condition, const char* what, size_t value) {
  if (condition) return;
  ++num_failed;
  std::printf("%s: %zu\n", what, value);
}

void test_lengths(const std::vector<uint8_t>& bytes, Sha256Impl impl) {
  for (size_t num_bytes = 0; num_bytes <= 3 * kSha256BlockBytes; ++num_bytes) {
    const Exact exact(bytes.data(), num_bytes, num_bytes % 5);
    expect(digest(exact.data, num_bytes, impl) ==
               digest(bytes.data(), num_bytes, Sha256Impl::kPortable),
           "digest of another implementation or address, bytes", num_bytes);
  }
}

// key_i = sha256(key_{i-1} || page i), the first with a seed of 0 or 32 bytes before it.
void test_chain(const std::vector<uint8_t>& bytes, size_t page_bytes, size_t seed_bytes,
                Sha256Impl impl) {
  constexpr size_t kNumPages = 5;
  const Exact tokens(bytes.data(), kNumPages * page_bytes, 1);
  const Exact seed(bytes.data() + 7, seed_bytes, 3);
  std::unique_ptr<uint8_t[]> keys(new uint8_t[kNumPages * kSha256Bytes]);
  page_key_chain({tokens.data, kNumPages, page_bytes, seed.data, seed_bytes, keys.get()}, impl);
  Digest last(seed.data, seed.data + seed_bytes);
  for (size_t page = 0; page < kNumPages; ++page) {
    const uint8_t* begin = tokens.data + page * page_bytes;
    last.insert(last.end(), begin, begin + page_bytes);
    last = digest(last.data(), last.size(), Sha256Impl::kPortable);
    expect(std::memcmp(last.data(), keys.get() + page * kSha256Bytes, kSha256Bytes) == 0,
           "key of page", page);
  }
}

}  // namespace

int main() {
  std::vector<uint8_t> bytes(4096);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 2654435761u >> 24);
  std::vector<Sha256Impl> impls = {Sha256Impl::kAuto, Sha256Impl::kPortable};
  if (has_sha_ni()) impls.push_back(Sha256Impl::kShaNi);
  for (Sha256Impl impl : impls) {
    test_lengths(bytes, impl);
    for (size_t page_bytes : {4, 60, 64, 256})
      for (size_t seed_bytes : {size_t{0}, kSha256Bytes})
        test_chain(bytes, page_bytes, seed_bytes, impl);
  }
  std::printf("test_keys: %d failed\n", num_failed);
  return num_failed != 0;
}
