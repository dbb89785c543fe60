// XXH3-128 with a seed: the checksum of a stored page. Bit for bit that of the reference
// implementation (github.com/Cyan4973/xxHash, frozen since 0.8.0); written here because its header
// is not on every machine, and because a page is hashed in pieces while it is copied.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "hicache/isa.h"

namespace hicache {

struct Hash128 {
  uint64_t low, high;
};

inline constexpr int64_t kHash128Bytes = 16;

// Big endian, as xxhash.xxh3_128_digest() of Python returns it.
void write_digest(const Hash128& hash, std::byte* digest);

// Throws Error(kLayout) where this machine does not run `isa`.
Hash128 xxh3_128(const std::byte* data, int64_t num_bytes, uint64_t seed, Isa isa);

// Shorter messages have formulas of their own, which need the message in one piece.
inline constexpr int64_t kXxh3MaxShortBytes = 240;

// A message of more than kXxh3MaxShortBytes, in pieces of any length.
class Xxh3Long {
 public:
  static constexpr int64_t kStripeBytes = 64;
  static constexpr int kNumSecretWords = 24;
  // Adds stripes to acc[8]; `stripe` counts those before them.
  using AccumulateFn = void (*)(uint64_t* acc, const uint64_t* secret, int64_t stripe,
                                const std::byte* data, int64_t num_stripes);

  Xxh3Long(uint64_t seed, Isa isa);
  void update(const std::byte* data, int64_t num_bytes);
  Hash128 finish();

 private:
  void accumulate(const std::byte* data, int64_t num_stripes);

  AccumulateFn accumulate_;
  alignas(64) uint64_t acc_[8];
  alignas(64) uint64_t secret_[kNumSecretWords];
  // The last whole stripe, which the end of the message overlaps, and what came behind it.
  std::byte tail_[2 * kStripeBytes];
  int64_t num_held_ = 0;  // bytes behind that stripe, at most a stripe
  int64_t num_stripes_ = 0;
  int64_t num_bytes_ = 0;
};

}  // namespace hicache
