// SHA-256 (FIPS 180-4) twice: portable, and with the x86 SHA extensions chosen at run time, because
// a page key is a serial chain of small messages and nothing but the block function can make it
// faster.
#include "hicache/sha256.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "hicache/check.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace hicache {
namespace {

alignas(64) constexpr std::array<std::uint32_t, 64> kRoundConstants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr std::array<std::uint32_t, 8> kInitialState = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

using State = std::array<std::uint32_t, 8>;
using BlockFn = void (*)(State&, const std::uint8_t*, std::size_t);

std::uint32_t load_big_endian(const std::uint8_t* p) {
  return std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | p[3];
}

void store_big_endian(std::uint8_t* p, std::uint32_t word) {
  for (int i = 0; i < 4; ++i) p[i] = static_cast<std::uint8_t>(word >> (24 - 8 * i));
}

void compress_portable(State& state, const std::uint8_t* data, std::size_t num_blocks) {
  for (; num_blocks > 0; --num_blocks, data += kSha256BlockBytes) {
    std::uint32_t w[64];
    for (int i = 0; i < 16; ++i) w[i] = load_big_endian(data + 4 * i);
    for (int i = 16; i < 64; ++i) {
      const std::uint32_t s0 =
          std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const std::uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const std::uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRoundConstants[i] + w[i];
      const std::uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const std::uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const State mixed = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state[i] += mixed[i];
  }
}

#if defined(__x86_64__)

// The instructions keep the state as two vectors, (a, b, e, f) and (c, d, g, h), high lane first.
__attribute__((target("sha,sse4.1"))) void compress_sha_ni(State& state, const std::uint8_t* data,
                                                           std::size_t num_blocks) {
  const __m128i swap_bytes = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i dcba = _mm_loadu_si128(reinterpret_cast<const __m128i*>(&state[0]));
  const __m128i hgfe = _mm_loadu_si128(reinterpret_cast<const __m128i*>(&state[4]));
  const __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1);
  const __m128i efgh = _mm_shuffle_epi32(hgfe, 0x1b);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
  for (; num_blocks > 0; --num_blocks, data += kSha256BlockBytes) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];  // the 16 newest schedule words, as a ring of four groups
    for (int i = 0; i < 4; ++i) {
      w[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data + 16 * i));
      w[i] = _mm_shuffle_epi8(w[i], swap_bytes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {  // four rounds each
      const auto* constants = reinterpret_cast<const __m128i*>(&kRoundConstants[4 * i]);
      const __m128i wk = _mm_add_epi32(w[i % 4], _mm_load_si128(constants));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
      if (i >= 12) continue;  // the last words are scheduled already
      const __m128i next = w[(i + 1) % 4], after = w[(i + 2) % 4], newest = w[(i + 3) % 4];
      const __m128i minus7 = _mm_alignr_epi8(newest, after, 4);
      const __m128i partial = _mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], next), minus7);
      w[i % 4] = _mm_sha256msg2_epu32(partial, newest);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(&state[0]), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(&state[4]), _mm_alignr_epi8(dchg, feba, 8));
}

bool probe_sha_ni() noexcept {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
  const bool has_sse41 = (ecx & bit_SSE4_1) != 0 && (ecx & bit_SSSE3) != 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  return has_sse41 && (ebx & (1u << 29)) != 0;
}

#else

constexpr BlockFn compress_sha_ni = compress_portable;  // never chosen: probe_sha_ni() is false
bool probe_sha_ni() noexcept { return false; }

#endif

BlockFn choose(Sha256Impl impl) {
  HICACHE_CHECK(kStorage, impl != Sha256Impl::kShaNi || has_sha_ni(),
                "sha256 impl=sha_ni: this processor has no SHA extensions");
  return impl != Sha256Impl::kPortable && has_sha_ni() ? compress_sha_ni : compress_portable;
}

void store_digest(const State& state, std::uint8_t* digest) {
  for (int i = 0; i < 8; ++i) store_big_endian(digest + 4 * i, state[i]);
}

// One message in parts: whole blocks are hashed where they lie.
class Message {
 public:
  explicit Message(BlockFn compress) : compress_(compress) {}

  void update(const std::uint8_t* data, std::size_t num_bytes) {
    if (num_bytes == 0) return;  // data may be null then
    total_bytes_ += num_bytes;
    if (held_bytes_ > 0) {
      const std::size_t taken = std::min(num_bytes, kSha256BlockBytes - held_bytes_);
      std::memcpy(held_ + held_bytes_, data, taken);
      held_bytes_ += taken, data += taken, num_bytes -= taken;
      if (held_bytes_ < kSha256BlockBytes) return;
      compress_(state_, held_, 1);
      held_bytes_ = 0;
    }
    const std::size_t num_blocks = num_bytes / kSha256BlockBytes;
    if (num_blocks > 0) compress_(state_, data, num_blocks);
    held_bytes_ = num_bytes - num_blocks * kSha256BlockBytes;
    if (held_bytes_ > 0) std::memcpy(held_, data + num_blocks * kSha256BlockBytes, held_bytes_);
  }

  void finish(std::uint8_t* digest) {
    constexpr std::size_t kLengthBytes = 8;
    held_[held_bytes_++] = 0x80;
    if (held_bytes_ > kSha256BlockBytes - kLengthBytes) {
      std::memset(held_ + held_bytes_, 0, kSha256BlockBytes - held_bytes_);
      compress_(state_, held_, 1);
      held_bytes_ = 0;
    }
    std::memset(held_ + held_bytes_, 0, kSha256BlockBytes - kLengthBytes - held_bytes_);
    const std::uint64_t num_bits = std::uint64_t{total_bytes_} * 8;
    store_big_endian(held_ + 56, static_cast<std::uint32_t>(num_bits >> 32));
    store_big_endian(held_ + 60, static_cast<std::uint32_t>(num_bits));
    compress_(state_, held_, 1);
    store_digest(state_, digest);
  }

 private:
  BlockFn compress_;
  State state_ = kInitialState;
  std::uint8_t held_[kSha256BlockBytes] = {};
  std::size_t held_bytes_ = 0;
  std::size_t total_bytes_ = 0;
};

// The messages of a chain, all of one length: 32 bytes of the last key and a page. The padding is
// laid out once. Whole blocks of tokens are hashed where they lie:
//
//   head [ key 32 | tokens 32 ]   tokens [ 64 ] ...   tail [ tokens | 0x80 0 .. length ]
//
// A page of less than 32 bytes has no head of its own: all of it is in the tail.
class ChainedPage {
 public:
  ChainedPage(BlockFn compress, std::size_t page_bytes) : compress_(compress) {
    const std::size_t total_bytes = kSha256Bytes + page_bytes;
    held_bytes_ = total_bytes % kSha256BlockBytes;
    num_middle_blocks_ = total_bytes < kSha256BlockBytes ? 0 : total_bytes / kSha256BlockBytes - 1;
    num_tail_blocks_ = held_bytes_ + 9 > kSha256BlockBytes ? 2 : 1;
    has_head_ = total_bytes >= kSha256BlockBytes;
    std::uint8_t* end = tail_ + num_tail_blocks_ * kSha256BlockBytes;
    tail_[held_bytes_] = 0x80;
    const std::uint64_t num_bits = std::uint64_t{total_bytes} * 8;
    store_big_endian(end - 8, static_cast<std::uint32_t>(num_bits >> 32));
    store_big_endian(end - 4, static_cast<std::uint32_t>(num_bits));
  }

  void hash(const std::uint8_t* previous, const std::uint8_t* tokens, std::uint8_t* key) {
    State state = kInitialState;
    std::uint8_t* rest = tail_;
    std::size_t rest_bytes = held_bytes_;
    if (has_head_) {
      constexpr std::size_t kTokenBytes = kSha256BlockBytes - kSha256Bytes;
      std::memcpy(head_, previous, kSha256Bytes);
      std::memcpy(head_ + kSha256Bytes, tokens, kTokenBytes);
      compress_(state, head_, 1);
      compress_(state, tokens + kTokenBytes, num_middle_blocks_);
      tokens += kTokenBytes + num_middle_blocks_ * kSha256BlockBytes;
    } else {
      std::memcpy(tail_, previous, kSha256Bytes);
      rest += kSha256Bytes, rest_bytes -= kSha256Bytes;
    }
    std::memcpy(rest, tokens, rest_bytes);
    compress_(state, tail_, num_tail_blocks_);
    store_digest(state, key);
  }

 private:
  BlockFn compress_;
  std::uint8_t head_[kSha256BlockBytes] = {};
  std::uint8_t tail_[2 * kSha256BlockBytes] = {};
  std::size_t held_bytes_ = 0;  // of the message, in the tail
  std::size_t num_middle_blocks_ = 0, num_tail_blocks_ = 0;
  bool has_head_ = false;
};

}  // namespace

bool has_sha_ni() noexcept {
  static const bool found = probe_sha_ni();
  return found;
}

void sha256(const std::uint8_t* data, std::size_t num_bytes, std::uint8_t* digest,
            Sha256Impl impl) {
  Message message(choose(impl));
  message.update(data, num_bytes);
  message.finish(digest);
}

void page_key_chain(const PageKeyParams& params, Sha256Impl impl) {
  const BlockFn compress = choose(impl);
  std::size_t page = 0;
  if (params.num_pages > 0 && params.seed_bytes != kSha256Bytes) {  // a first key of its own length
    Message message(compress);
    message.update(params.seed, params.seed_bytes);
    message.update(params.tokens, params.page_bytes);
    message.finish(params.keys);
    page = 1;
  }
  ChainedPage chained(compress, params.page_bytes);
  for (; page < params.num_pages; ++page) {
    std::uint8_t* key = params.keys + page * kSha256Bytes;
    const std::uint8_t* previous = page == 0 ? params.seed : key - kSha256Bytes;
    chained.hash(previous, params.tokens + page * params.page_bytes, key);
  }
}

}  // namespace hicache
