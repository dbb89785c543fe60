// Which page lies where, in memory: an open-addressing table of 80 bytes and a few per page.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "hicache/storage/index_format.h"

namespace hicache::storage {

using PageId = uint32_t;
inline constexpr PageId kNoPage = UINT32_MAX;

struct PageEntry {
  PageKey key;
  Checksum checksum;
  uint64_t generation;
  uint32_t slot;
  uint32_t num_pins;  // reads and batches that use the slot: it is not given away
  uint16_t shard;     // the number that this process gave it
  bool is_held;       // found by its key; else waits for its last pin
  bool is_ranked;     // in the order of use
  PageId older, newer;
};
static_assert(sizeof(PageEntry) == 80);

// Not thread-safe. A key may have several entries: two writers may have stored the same page.
class PageTable {
 public:
  explicit PageTable(size_t num_expected = 0);

  PageId insert(const PageKey& key, uint16_t shard, uint32_t slot, uint64_t generation,
                const Checksum& checksum);
  // The first entry of this key, or the next one after `after`; kNoPage at the end.
  PageId find(const PageKey& key, PageId after = kNoPage) const;
  // No longer found. The entry itself stays until it is forgotten.
  void take_out(PageId id);
  void forget(PageId id);

  PageEntry& operator[](PageId id) { return chunks_[id / kChunk][id % kChunk]; }
  const PageEntry& operator[](PageId id) const { return chunks_[id / kChunk][id % kChunk]; }

  // The order of use, of those entries that were ever touched.
  void touch(PageId id);
  PageId oldest() const { return oldest_; }
  PageId newest() const { return newest_; }

  // Calls visit(id) for every entry that is held; it may take that one out.
  template <typename Visit>
  void for_each(Visit visit) {
    for (PageId id = 0; id < num_ids_; ++id)
      if ((*this)[id].is_held) visit(id);
  }

  size_t num_pages() const { return num_pages_; }  // different keys
  size_t num_bytes() const;                        // of memory
  void reserve(size_t num_entries);

 private:
  static constexpr size_t kChunk = 1024;

  size_t home(const PageKey& key) const { return hash_of(key) & (buckets_.size() - 1); }
  void place(PageId id);
  void unrank(PageId id);

  std::vector<PageId> buckets_;  // a power of two
  std::vector<std::unique_ptr<PageEntry[]>> chunks_;
  PageId num_ids_ = 0;
  PageId free_ = kNoPage;  // a list through `older`
  PageId oldest_ = kNoPage, newest_ = kNoPage;
  size_t num_held_ = 0, num_pages_ = 0;
};

}  // namespace hicache::storage
