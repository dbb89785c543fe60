#include "hicache/storage/page_table.h"

#include <algorithm>

namespace hicache::storage {

PageTable::PageTable(size_t num_expected) : buckets_(16, kNoPage) { reserve(num_expected); }

void PageTable::reserve(size_t num_entries) {
  const size_t num_buckets = std::bit_ceil(num_entries + num_entries / 3 + 1);
  if (num_buckets <= buckets_.size()) return;
  buckets_.assign(num_buckets, kNoPage);
  for (PageId id = 0; id < num_ids_; ++id)
    if ((*this)[id].is_held) place(id);
}

void PageTable::place(PageId id) {
  size_t bucket = home((*this)[id].key);
  while (buckets_[bucket] != kNoPage) bucket = (bucket + 1) & (buckets_.size() - 1);
  buckets_[bucket] = id;
}

PageId PageTable::insert(const PageKey& key, uint16_t shard, uint32_t slot, uint64_t generation,
                         const Checksum& checksum) {
  if ((num_held_ + 1) * 4 > buckets_.size() * 3) reserve(buckets_.size());
  PageId id = free_;
  if (id != kNoPage) {
    free_ = (*this)[id].older;
  } else {
    id = num_ids_++;
    if (id / kChunk == chunks_.size())
      chunks_.push_back(std::make_unique_for_overwrite<PageEntry[]>(kChunk));
  }
  num_pages_ += find(key) == kNoPage;
  (*this)[id] = {key,   checksum,         generation, slot,    /*num_pins=*/0,
                 shard, /*is_held=*/true, false,      kNoPage, kNoPage};
  place(id);
  ++num_held_;
  return id;
}

PageId PageTable::find(const PageKey& key, PageId after) const {
  const size_t mask = buckets_.size() - 1;
  bool is_past = after == kNoPage;
  for (size_t bucket = home(key); buckets_[bucket] != kNoPage; bucket = (bucket + 1) & mask) {
    const PageId id = buckets_[bucket];
    if (is_past && (*this)[id].key == key) return id;
    is_past |= id == after;
  }
  return kNoPage;
}

void PageTable::take_out(PageId id) {
  const size_t mask = buckets_.size() - 1;
  size_t hole = home((*this)[id].key);
  while (buckets_[hole] != id) hole = (hole + 1) & mask;
  // Those behind the hole move up, unless that brings them before their home.
  for (size_t bucket = (hole + 1) & mask; buckets_[bucket] != kNoPage;
       bucket = (bucket + 1) & mask) {
    const size_t wanted = home((*this)[buckets_[bucket]].key);
    if (((bucket - wanted) & mask) < ((bucket - hole) & mask)) continue;
    buckets_[hole] = buckets_[bucket];
    hole = bucket;
  }
  buckets_[hole] = kNoPage;
  (*this)[id].is_held = false;
  unrank(id);
  --num_held_;
  num_pages_ -= find((*this)[id].key) == kNoPage;
}

void PageTable::forget(PageId id) {
  (*this)[id].older = free_;
  free_ = id;
}

void PageTable::unrank(PageId id) {
  PageEntry& entry = (*this)[id];
  if (!entry.is_ranked) return;
  (entry.older == kNoPage ? oldest_ : (*this)[entry.older].newer) = entry.newer;
  (entry.newer == kNoPage ? newest_ : (*this)[entry.newer].older) = entry.older;
  entry.is_ranked = false;
}

void PageTable::touch(PageId id) {
  unrank(id);
  PageEntry& entry = (*this)[id];
  entry.older = newest_;
  entry.newer = kNoPage;
  (newest_ == kNoPage ? oldest_ : (*this)[newest_].newer) = id;
  newest_ = id;
  entry.is_ranked = true;
}

size_t PageTable::num_bytes() const {
  return buckets_.capacity() * sizeof(PageId) + chunks_.size() * kChunk * sizeof(PageEntry) +
         chunks_.capacity() * sizeof(chunks_[0]);
}

}  // namespace hicache::storage
