// A short text that its owner may replace while other processes read it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>

namespace hicache {

inline constexpr int kCacheLine = 64;

// Odd versions are being written. Words are atomic and ordered, so a reader that saw one of the new
// words also sees the new version and tries again.
struct alignas(kCacheLine) ShmNote {
  static constexpr int kNumWords = 31;
  static constexpr int kMaxReads = 8;

  // One writer. What is longer than the note is cut.
  void write(const std::string& text) {
    uint64_t bytes[kNumWords] = {};
    std::memcpy(bytes, text.data(), std::min(text.size(), sizeof bytes));
    const uint64_t before = version.load(std::memory_order_relaxed);
    version.store(before + 1, std::memory_order_seq_cst);
    for (int i = 0; i < kNumWords; ++i) words[i].store(bytes[i], std::memory_order_release);
    version.store(before + 2, std::memory_order_release);
  }

  // Empty when there is none, or when it keeps changing (its owner may have died in between).
  std::string read() const {
    for (int attempt = 0; attempt < kMaxReads; ++attempt) {
      const uint64_t before = version.load(std::memory_order_acquire);
      char bytes[kNumWords * sizeof(uint64_t)];
      for (int i = 0; i < kNumWords; ++i) {
        const uint64_t word = words[i].load(std::memory_order_acquire);
        std::memcpy(bytes + i * sizeof word, &word, sizeof word);
      }
      if (before % 2 == 0 && version.load(std::memory_order_relaxed) == before) {
        return std::string(bytes, ::strnlen(bytes, sizeof bytes));
      }
    }
    return {};
  }

  std::atomic<uint64_t> version;
  std::atomic<uint64_t> words[kNumWords];
};

}  // namespace hicache
