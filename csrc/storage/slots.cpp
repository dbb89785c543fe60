#include "hicache/storage/slots.h"

#include <algorithm>
#include <bit>

namespace hicache::storage {

void FreeSlots::grow_to(uint32_t num_slots) {
  bits_.resize((num_slots + 63u) / 64u);
  for (; num_slots_ < num_slots; ++num_slots_) give(num_slots_);
}

void FreeSlots::cut_to(uint32_t num_slots) {
  for (; num_slots_ > num_slots; --num_slots_)
    if (is_free(num_slots_ - 1)) occupy(num_slots_ - 1);
  cursor_ = std::min(cursor_, num_slots_);
}

void FreeSlots::give(uint32_t slot) {
  bits_[slot / 64] |= uint64_t{1} << (slot % 64);
  ++num_free_;
}

void FreeSlots::occupy(uint32_t slot) {
  bits_[slot / 64] &= ~(uint64_t{1} << (slot % 64));
  --num_free_;
}

std::vector<uint32_t> FreeSlots::take(uint32_t most) {
  std::vector<uint32_t> taken;
  taken.reserve(std::min(most, num_free_));
  while (taken.size() < most && num_free_ > 0) {
    if (cursor_ >= num_slots_) cursor_ = 0;
    const uint64_t rest = bits_[cursor_ / 64] >> (cursor_ % 64);
    if (rest == 0) {
      cursor_ = (cursor_ / 64 + 1) * 64;
      continue;
    }
    cursor_ += static_cast<uint32_t>(std::countr_zero(rest));
    occupy(cursor_);
    taken.push_back(cursor_++);
  }
  return taken;
}

}  // namespace hicache::storage
