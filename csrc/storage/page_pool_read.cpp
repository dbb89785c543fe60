#include <algorithm>
#include <cerrno>

#include "hicache/storage/page_pool.h"

namespace hicache::storage {

void PagePool::read(std::span<const PageKey> keys, std::byte* const* pages, const IoLimit& limit,
                    bool* is_read) {
  std::fill_n(is_read, keys.size(), false);
  // A second copy stands in for a damaged one: a power failure may have taken its tombstone.
  for (int num_tries = 3; num_tries > 0; --num_tries)
    if (!read_once(keys, pages, limit, is_read) || limit.is_over()) break;
  const auto num_read = static_cast<uint64_t>(std::count(is_read, is_read + keys.size(), true));
  const std::lock_guard table(table_mutex_);
  stats_.num_read_pages += num_read;
  stats_.num_missed_pages += keys.size() - num_read;
}

// Those that are not read yet. Returns whether damaged copies were dropped.
bool PagePool::read_once(std::span<const PageKey> keys, std::byte* const* pages,
                         const IoLimit& limit, bool* is_read) {
  std::vector<PageId> ids(keys.size(), kNoPage);
  std::vector<PageEntry> entries;
  std::vector<PageMove> moves;
  std::vector<size_t> positions;
  std::vector<std::shared_ptr<Segments>> used;  // stay open
  {
    const std::lock_guard table(table_mutex_);
    follow();
    for (size_t i = 0; i < keys.size(); ++i) {
      const PageId id = is_read[i] ? kNoPage : table_.find(keys[i]);
      if (id == kNoPage) continue;
      const std::shared_ptr<Segments>& segments = numbered_[table_[id].shard]->segments;
      if (!segments) continue;
      if (used.empty() || used.back() != segments) used.push_back(segments);
      ++table_[id].num_pins;
      ids[i] = id;
      entries.push_back(table_[id]);
      moves.push_back({segments.get(), table_[id].slot, pages[i]});
      positions.push_back(i);
    }
    touch_chain(ids);
  }
  std::vector<bool> is_genuine(moves.size());
  io_.move(IoOp::kRead, moves, limit, [&](size_t index, const std::byte* bytes) {
    const PageEntry& entry = entries[index];
    is_genuine[index] = checksum_of(entry.key, bytes, config_.format.page_bytes) == entry.checksum;
    return bool{is_genuine[index]};
  });
  std::vector<PageEntry> damaged;
  std::vector<int> errors;
  for (size_t i = 0; i < moves.size(); ++i) {
    is_read[positions[i]] = is_genuine[i];
    if (is_genuine[i] || moves[i].error == ECANCELED) continue;
    damaged.push_back(entries[i]);
    errors.push_back(moves[i].error);
  }
  {
    const std::lock_guard table(table_mutex_);
    for (const PageId id : ids)
      if (id != kNoPage) unpin(id);
  }
  return !damaged.empty() && drop_damaged(damaged, errors);
}

// A page that is damaged, and was not just dropped or moved by another process, is never tried
// again. Returns whether there was one.
bool PagePool::drop_damaged(std::span<const PageEntry> damaged, std::span<const int> errors) {
  const std::lock_guard append(append_mutex_);
  std::vector<uint64_t> shards;
  {
    const std::lock_guard table(table_mutex_);
    for (const PageEntry& entry : damaged) {
      const Shard* shard = numbered_[entry.shard];
      shards.push_back(shard == nullptr ? 0 : shard->name);
    }
  }
  if (const int error = acquire(); error < 0) fail(-error);
  bool is_any_dropped = false;
  {
    const std::lock_guard table(table_mutex_);
    follow();
    for (size_t i = 0; i < damaged.size(); ++i) {
      const auto shard = shards_.find(shards[i]);
      if (shard == shards_.end()) continue;
      const PageId id = find_at(damaged[i].key, *shard->second, damaged[i].generation);
      if (id == kNoPage) continue;
      ++(errors[i] != 0 ? stats_.num_read_errors : stats_.num_corrupt_pages);
      if (is_passing(errors[i])) continue;
      bury(id);
      is_any_dropped = true;
    }
  }
  flush();
  compact_if_long(false);
  return is_any_dropped;
}

// The first of a chain is used last: no page goes before those that need it.
void PagePool::touch_chain(std::span<const PageId> chain) {
  for (size_t i = chain.size(); i-- > 0;)
    if (const PageId id = chain[i]; id != kNoPage && table_[id].is_ranked) table_.touch(id);
}

}  // namespace hicache::storage
