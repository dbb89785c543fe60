// What the C++ tests of page copies share: failures that are counted, and memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>

namespace hicache::testing {

inline int num_failed = 0;

inline void expect(bool condition, const char* what, int case_idx) {
  if (condition) return;
  ++num_failed;
  std::printf("case %d: %s\n", case_idx, what);
}

// Poisoned, and on the heap in exactly the right size: sanitizers see a byte too far.
struct Bytes {
  explicit Bytes(int64_t num_bytes)
      : size(static_cast<size_t>(num_bytes)), data(new std::byte[size]) {
    std::memset(data.get(), 0xee, size);
  }
  bool operator==(const Bytes& other) const {
    return size == other.size && std::memcmp(data.get(), other.data.get(), size) == 0;
  }
  size_t size;
  std::unique_ptr<std::byte[]> data;
};

}  // namespace hicache::testing
