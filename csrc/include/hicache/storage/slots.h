// Which slots of a shard are free, and how many the quota lets it have.
#pragma once

#include <cstdint>
#include <vector>

namespace hicache::storage {

// Not thread-safe.
class FreeSlots {
 public:
  // `num_slots` slots are there; new ones are free.
  void grow_to(uint32_t num_slots);
  // Those from there on are gone, whatever they were.
  void cut_to(uint32_t num_slots);
  void give(uint32_t slot);
  // Not free any more; it must have been.
  void occupy(uint32_t slot);
  bool is_free(uint32_t slot) const { return bits_[slot / 64] >> (slot % 64) & 1; }
  // At most `most`, ascending from where the last call ended: neighbours for a batch.
  std::vector<uint32_t> take(uint32_t most);

  uint32_t num_free() const { return num_free_; }
  uint32_t num_slots() const { return num_slots_; }

 private:
  std::vector<uint64_t> bits_;  // 1: free
  uint32_t num_slots_ = 0, num_free_ = 0, cursor_ = 0;
};

}  // namespace hicache::storage
