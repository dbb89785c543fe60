// SHA-256 and the page-key chain over it: key_i = sha256(key_{i-1} || tokens of page i).
#pragma once

#include <cstddef>
#include <cstdint>

namespace hicache {

inline constexpr std::size_t kSha256Bytes = 32;
inline constexpr std::size_t kSha256BlockBytes = 64;

// kAuto takes the x86 SHA extensions where the processor has them.
enum class Sha256Impl { kAuto, kPortable, kShaNi };

bool has_sha_ni() noexcept;

// Both raise StorageError when kShaNi is asked of a processor without it.
void sha256(const std::uint8_t* data, std::size_t num_bytes, std::uint8_t* digest, Sha256Impl impl);

struct PageKeyParams {
  const std::uint8_t* tokens;  // [num_pages, page_bytes], u32-LE tokens, any alignment
  std::size_t num_pages;
  std::size_t page_bytes;    // 4 * page_size
  const std::uint8_t* seed;  // the digest before page 0
  std::size_t seed_bytes;    // 0 (no namespace) or kSha256Bytes
  std::uint8_t* keys;        // [num_pages, kSha256Bytes], written
};

void page_key_chain(const PageKeyParams& params, Sha256Impl impl);

}  // namespace hicache
