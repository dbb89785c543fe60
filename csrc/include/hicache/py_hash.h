// hash((int, int, ...)) as 64-bit CPython computes it since 3.8, so that ranks with either core of
// the tree have the same digest. Sources: Objects/tupleobject.c and Python/pyhash.c of CPython.
#pragma once

#include <cstdint>

namespace hicache {

// Integers are taken modulo the Mersenne prime 2^61 - 1, with their sign; -1 means an error there.
constexpr int64_t py_hash(int64_t value) {
  constexpr uint64_t kModulus = (uint64_t{1} << 61) - 1;
  const bool is_negative = value < 0;
  const uint64_t size = is_negative ? 0 - static_cast<uint64_t>(value) : value;
  const auto hash = static_cast<int64_t>(size % kModulus);
  const int64_t with_sign = is_negative ? -hash : hash;
  return with_sign == -1 ? -2 : with_sign;
}

// Of a tuple of integers, one by one: a simplified XXH64.
class TupleHash {
 public:
  constexpr TupleHash& add(int64_t value) {
    acc_ += static_cast<uint64_t>(py_hash(value)) * kPrime2;
    acc_ = (acc_ << 31) | (acc_ >> 33);
    acc_ *= kPrime1;
    ++size_;
    return *this;
  }
  constexpr int64_t value() const {
    const uint64_t hash = acc_ + (size_ ^ (kPrime5 ^ 3527539));
    return hash == UINT64_MAX ? 1546275796 : static_cast<int64_t>(hash);
  }

 private:
  static constexpr uint64_t kPrime1 = 11400714785074694791u;
  static constexpr uint64_t kPrime2 = 14029467366897019727u;
  static constexpr uint64_t kPrime5 = 2870177450012600261u;

  uint64_t acc_ = kPrime5;
  uint64_t size_ = 0;
};

}  // namespace hicache
