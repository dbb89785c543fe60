#include <algorithm>
#include <cerrno>
#include <deque>

#include "hicache/storage/page_pool.h"

namespace hicache::storage {

struct PagePool::Reading {
  PoolPart part;
  // Of those that are looked for, and were not read yet:
  std::vector<PageId> ids{};  // by position; pinned
  std::vector<PageEntry> entries{};
  std::vector<PageMove> moves{};  // of the entries
  std::vector<size_t> positions{};
  std::vector<std::shared_ptr<Segments>> used{};  // stay open
  std::vector<char> is_genuine{};

  PageIo::Part move() {
    return {&part.pool->io_, moves, [this](size_t index, const std::byte* bytes) {
              const PageEntry& entry = entries[index];
              const uint64_t page_bytes = part.pool->config_.format.page_bytes;
              is_genuine[index] = checksum_of(entry.key, bytes, page_bytes) == entry.checksum;
              return is_genuine[index] != 0;
            }};
  }
};

void PagePool::read(std::span<const PoolPart> parts, const IoLimit& limit) {
  for (const PoolPart& part : parts) std::fill_n(part.is_done, part.keys.size(), false);
  // A second copy stands in for a damaged one: a power failure may have taken its tombstone.
  bool is_any_dropped = true;
  for (int num_tries = 3; num_tries > 0 && is_any_dropped; --num_tries) {
    std::deque<Reading> readings;
    std::vector<PageIo::Part> moves;
    for (const PoolPart& part : parts) {
      part.pool->begin(readings.emplace_back(Reading{part}));
      moves.push_back(readings.back().move());
    }
    PageIo::move(IoOp::kRead, moves, limit);
    is_any_dropped = false;
    for (Reading& reading : readings) is_any_dropped |= reading.part.pool->end(reading);
    if (limit.is_over()) break;
  }
  for (const PoolPart& part : parts) {
    const auto num_read = std::count(part.is_done, part.is_done + part.keys.size(), true);
    const std::lock_guard table(part.pool->table_mutex_);
    part.pool->stats_.num_read_pages += static_cast<uint64_t>(num_read);
    part.pool->stats_.num_missed_pages += part.keys.size() - static_cast<uint64_t>(num_read);
  }
}

void PagePool::begin(Reading& reading) {
  const PoolPart& part = reading.part;
  const std::lock_guard table(table_mutex_);
  follow();
  reading.ids.assign(part.keys.size(), kNoPage);
  for (size_t i = 0; i < part.keys.size(); ++i) {
    const PageId id = part.is_done[i] ? kNoPage : table_.find(part.keys[i]);
    if (id == kNoPage) continue;
    const std::shared_ptr<Segments>& segments = numbered_[table_[id].shard]->segments;
    if (!segments) continue;
    if (reading.used.empty() || reading.used.back() != segments) reading.used.push_back(segments);
    ++table_[id].num_pins;
    reading.ids[i] = id;
    reading.entries.push_back(table_[id]);
    reading.moves.push_back({segments.get(), table_[id].slot, part.pages[i]});
    reading.positions.push_back(i);
  }
  reading.is_genuine.assign(reading.moves.size(), 0);
  touch_chain(reading.ids);
}

// Returns whether damaged copies were dropped.
bool PagePool::end(Reading& reading) {
  std::vector<PageEntry> damaged;
  std::vector<int> errors;
  for (size_t i = 0; i < reading.moves.size(); ++i) {
    reading.part.is_done[reading.positions[i]] = reading.is_genuine[i] != 0;
    if (reading.is_genuine[i] || reading.moves[i].error == ECANCELED) continue;
    damaged.push_back(reading.entries[i]);
    errors.push_back(reading.moves[i].error);
  }
  {
    const std::lock_guard table(table_mutex_);
    for (const PageId id : reading.ids)
      if (id != kNoPage) unpin(id);
  }
  return !damaged.empty() && drop_damaged(damaged, errors);
}

// A page that is damaged, and was not just dropped or moved by another process, is never tried
// again. Returns whether there was one.
bool PagePool::drop_damaged(std::span<const PageEntry> damaged, std::span<const int> errors) {
  const std::lock_guard append(append_mutex_);
  std::vector<uint64_t> shards;
  const auto find_again = [&](size_t i) {
    const auto shard = shards_.find(shards[i]);
    if (shard == shards_.end()) return kNoPage;
    return find_at(damaged[i].key, *shard->second, damaged[i].generation);
  };
  bool is_any_there = false;
  {
    const std::lock_guard table(table_mutex_);
    for (const PageEntry& entry : damaged) {
      const Shard* shard = numbered_[entry.shard];
      shards.push_back(shard == nullptr ? 0 : shard->name);
    }
    follow();
    for (size_t i = 0; i < damaged.size(); ++i)
      is_any_there |= !is_passing(errors[i]) && find_again(i) != kNoPage;
  }
  // A shard is taken for a tombstone alone: a process that only reads has none.
  if (is_any_there)
    if (const int error = acquire(); error < 0) fail(-error);
  bool is_any_dropped = false;
  {
    const std::lock_guard table(table_mutex_);
    follow();  // again: a shard that acquire() could not take was forgotten, pages and all
    for (size_t i = 0; i < damaged.size(); ++i) {
      const PageId id = find_again(i);
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
