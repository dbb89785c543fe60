#include "hicache/storage/page_pool.h"

#include <algorithm>
#include <cerrno>

#include "hicache/check.h"

namespace hicache::storage {

bool is_passing(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == EINTR || error == EAGAIN;
}

PagePool::PagePool(Files& files, IoEngine& engine, File dir, const PoolConfig& config)
    : files_(files),
      engine_(engine),
      dir_(std::move(dir)),
      config_(config),
      slot_bytes_(config.format.slot_bytes()),
      max_slots_(static_cast<uint32_t>(
          std::min<uint64_t>(config.max_bytes / slot_bytes_, UINT32_MAX / 2))),
      io_(engine, config.format.page_bytes, slot_bytes_) {
  HICACHE_CHECK(kStorage, config.segment_bytes >= slot_bytes_, "a page of ",
                config.format.page_bytes, " bytes takes ", slot_bytes_,
                " bytes, more than a segment of segment_bytes=", config.segment_bytes);
  HICACHE_CHECK(kStorage, max_slots_ > 0, "a page of ", config.format.page_bytes, " bytes takes ",
                slot_bytes_, " bytes, more than the quota of max_bytes=", config.max_bytes);
  const std::lock_guard table(table_mutex_);
  follow();
}

void PagePool::find(std::span<const PageKey> keys, bool* is_there) {
  const std::lock_guard table(table_mutex_);
  const auto look = [&] {
    bool are_all = true;
    for (size_t i = 0; i < keys.size(); ++i)
      are_all &= is_there[i] = table_.find(keys[i]) != kNoPage;
    return are_all;
  };
  if (look()) return;
  follow();
  look();
}

size_t PagePool::remove(std::span<const PageKey> keys) {
  const std::lock_guard append(append_mutex_);
  {
    const std::lock_guard table(table_mutex_);
    follow();
    const auto is_there = [&](const PageKey& key) { return table_.find(key) != kNoPage; };
    if (std::none_of(keys.begin(), keys.end(), is_there)) return 0;
  }
  if (const int error = acquire(); error < 0) fail(-error);
  size_t num_removed = 0;
  {
    const std::lock_guard table(table_mutex_);
    for (const PageKey& key : keys) {
      PageId id = table_.find(key);
      num_removed += id != kNoPage;
      for (; id != kNoPage; id = table_.find(key)) bury(id);
    }
  }
  flush();
  compact_if_long(false);
  return num_removed;
}

int PagePool::clear() {
  const std::lock_guard append(append_mutex_);
  {
    const std::lock_guard table(table_mutex_);
    follow();
    if (shards_.empty()) return 0;
  }
  if (const int error = acquire(); error < 0) return error;
  {
    const std::lock_guard table(table_mutex_);
    for (const auto& [name, shard] : shards_) {
      const uint64_t last = shard.get() == own_ ? last_generation_ : shard->newest_generation;
      untold_.push_back(make_record(RecordKind::kCleared, name, 0, last));
      if (shard.get() != own_) cleared_[name] = last;
    }
    table_.for_each([&](PageId id) {
      if (table_[id].shard == own_->number)
        bury_quietly(id);
      else
        discard(id);
    });
  }
  if (!flush()) return failure_ != 0 ? -failure_ : -EIO;
  compact_if_long(false);
  return 0;
}

PoolStats PagePool::stats() {
  const std::lock_guard table(table_mutex_);
  PoolStats stats = stats_;
  stats.num_pages = table_.num_pages();
  stats.segment_bytes = slots_.num_slots() * slot_bytes_;
  stats.table_bytes = table_.num_bytes();
  return stats;
}

void PagePool::bury(PageId id) {
  const PageEntry& entry = table_[id];
  const Shard& shard = *numbered_[entry.shard];
  untold_.push_back(
      make_record(RecordKind::kTombstone, shard.name, entry.slot, entry.generation, entry.key));
  if (&shard == own_) return bury_quietly(id);
  graves_[{shard.name, entry.generation}] = {entry.key, entry.slot, /*is_needed=*/true};
  discard(id);
}

void PagePool::bury_quietly(PageId id) {
  ++table_[id].num_pins;  // until it was told
  untold_pages_.push_back(id);
  table_.take_out(id);
}

void PagePool::discard(PageId id) {
  table_.take_out(id);
  if (table_[id].num_pins == 0) table_.forget(id);
}

void PagePool::unpin(PageId id) {
  PageEntry& entry = table_[id];
  if (--entry.num_pins > 0 || entry.is_held) return;
  // Of a shard that was cut to the quota, the slot may be gone.
  if (own_ != nullptr && entry.shard == own_->number && entry.slot < slots_.num_slots())
    slots_.give(entry.slot);
  table_.forget(id);
}

}  // namespace hicache::storage
