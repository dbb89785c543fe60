// XXH3-128 of at most 240 bytes: a formula for each range of lengths.
#include "xxh3_mix.h"

namespace hicache::xxh3 {
namespace {

uint64_t avalanche64(uint64_t hash) {  // of XXH64
  hash = (hash ^ hash >> 33) * kPrime64_2;
  hash = (hash ^ hash >> 29) * kPrime64_3;
  return hash ^ hash >> 32;
}

Hash128 hash_0(uint64_t seed) {
  return {avalanche64(seed ^ kSecret[8] ^ kSecret[9]),
          avalanche64(seed ^ kSecret[10] ^ kSecret[11])};
}

Hash128 hash_1_to_3(const std::byte* data, uint32_t num_bytes, uint64_t seed) {
  const auto first = static_cast<uint32_t>(data[0]);
  const auto middle = static_cast<uint32_t>(data[num_bytes >> 1]);
  const auto last = static_cast<uint32_t>(data[num_bytes - 1]);
  const uint32_t low = first << 16 | middle << 24 | last | num_bytes << 8;
  const uint32_t high = std::rotl(__builtin_bswap32(low), 13);
  const auto* secret = reinterpret_cast<const std::byte*>(kSecret);
  const uint64_t flip_low = (read32(secret) ^ read32(secret + 4)) + seed;
  const uint64_t flip_high = (read32(secret + 8) ^ read32(secret + 12)) - seed;
  return {avalanche64(low ^ flip_low), avalanche64(high ^ flip_high)};
}

Hash128 hash_4_to_8(const std::byte* data, uint64_t num_bytes, uint64_t seed) {
  seed ^= uint64_t{__builtin_bswap32(static_cast<uint32_t>(seed))} << 32;
  const uint64_t word = read32(data) + (uint64_t{read32(data + num_bytes - 4)} << 32);
  const uint64_t flip = (kSecret[2] ^ kSecret[3]) + seed;
  Hash128 hash = multiply(word ^ flip, kPrime64_1 + (num_bytes << 2));
  hash.high += hash.low << 1;
  hash.low ^= hash.high >> 3;
  hash.low = (hash.low ^ hash.low >> 35) * kPrimeMx2;
  hash.low ^= hash.low >> 28;
  return {hash.low, avalanche(hash.high)};
}

Hash128 hash_9_to_16(const std::byte* data, uint64_t num_bytes, uint64_t seed) {
  const uint64_t flip_low = (kSecret[4] ^ kSecret[5]) - seed;
  const uint64_t flip_high = (kSecret[6] ^ kSecret[7]) + seed;
  const uint64_t low = read64(data), high = read64(data + num_bytes - 8) ^ flip_high;
  Hash128 mixed = multiply(low ^ high ^ flip_high ^ flip_low, kPrime64_1);
  mixed.low += (num_bytes - 1) << 54;
  mixed.high += high + static_cast<uint32_t>(high) * (kPrime32_2 - 1);
  mixed.low ^= __builtin_bswap64(mixed.high);
  Hash128 hash = multiply(mixed.low, kPrime64_2);
  hash.high += mixed.high * kPrime64_2;
  return {avalanche(hash.low), avalanche(hash.high)};
}

uint64_t mix_16(const std::byte* data, const std::byte* secret, uint64_t seed) {
  return multiply_and_fold(read64(data) ^ (read64(secret) + seed),
                           read64(data + 8) ^ (read64(secret + 8) - seed));
}

void mix_32(Hash128& hash, const std::byte* first, const std::byte* second, int64_t secret_offset,
            uint64_t seed) {
  const auto* secret = reinterpret_cast<const std::byte*>(kSecret) + secret_offset;
  hash.low += mix_16(first, secret, seed);
  hash.low ^= read64(second) + read64(second + 8);
  hash.high += mix_16(second, secret + 16, seed);
  hash.high ^= read64(first) + read64(first + 8);
}

Hash128 finish(const Hash128& hash, int64_t num_bytes, uint64_t seed) {
  const uint64_t low = hash.low + hash.high;
  const uint64_t high = hash.low * kPrime64_1 + hash.high * kPrime64_4 +
                        (static_cast<uint64_t>(num_bytes) - seed) * kPrime64_2;
  return {avalanche(low), 0 - avalanche(high)};
}

Hash128 hash_17_to_128(const std::byte* data, int64_t num_bytes, uint64_t seed) {
  Hash128 hash{static_cast<uint64_t>(num_bytes) * kPrime64_1, 0};
  for (int64_t i = (num_bytes - 1) / 32; i >= 0; --i)  // from the middle outwards
    mix_32(hash, data + 16 * i, data + num_bytes - 16 * (i + 1), 32 * i, seed);
  return finish(hash, num_bytes, seed);
}

Hash128 hash_129_to_240(const std::byte* data, int64_t num_bytes, uint64_t seed) {
  Hash128 hash{static_cast<uint64_t>(num_bytes) * kPrime64_1, 0};
  for (int64_t at = 0; at < 128; at += 32) mix_32(hash, data + at, data + at + 16, at, seed);
  hash = {avalanche(hash.low), avalanche(hash.high)};
  for (int64_t at = 128; at + 32 <= num_bytes; at += 32)
    mix_32(hash, data + at, data + at + 16, at - 128 + 3, seed);
  mix_32(hash, data + num_bytes - 16, data + num_bytes - 32, 136 - 17 - 16, 0 - seed);
  return finish(hash, num_bytes, seed);
}

}  // namespace

Hash128 hash_short(const std::byte* data, int64_t num_bytes, uint64_t seed) {
  if (num_bytes == 0) return hash_0(seed);
  if (num_bytes <= 3) return hash_1_to_3(data, static_cast<uint32_t>(num_bytes), seed);
  if (num_bytes <= 8) return hash_4_to_8(data, static_cast<uint64_t>(num_bytes), seed);
  if (num_bytes <= 16) return hash_9_to_16(data, static_cast<uint64_t>(num_bytes), seed);
  if (num_bytes <= 128) return hash_17_to_128(data, num_bytes, seed);
  return hash_129_to_240(data, num_bytes, seed);
}

}  // namespace hicache::xxh3
