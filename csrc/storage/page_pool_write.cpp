// A write: slots are found and what they held is told dead; then the bytes; then, when they are as
// durable as asked for, the records. Only the first and the last step exclude each other.
#include <algorithm>
#include <cerrno>
#include <unordered_map>

#include "hicache/storage/page_pool.h"

namespace hicache::storage {
namespace {

struct KeyHash {
  size_t operator()(const PageKey& key) const { return hash_of(key); }
};

}  // namespace

struct PagePool::Batch {
  PoolPart part;

  struct Item {
    size_t position;
    Checksum checksum{};
    bool is_told = false;
  };
  std::vector<Item> items{};       // pages that are not there yet
  std::vector<PageMove> moves{};   // of the items
  std::vector<size_t> first_of{};  // by position: the first one with this key
  std::vector<PageId> chain{};     // by position: pinned while they are there
  std::shared_ptr<Segments> segments{};

  PageIo::Part move() {
    return {&part.pool->io_, moves, [this](size_t index, const std::byte* bytes) {
              Item& item = items[index];
              const uint64_t page_bytes = part.pool->config_.format.page_bytes;
              item.checksum = checksum_of(part.keys[item.position], bytes, page_bytes);
              return true;
            }};
  }
};

void PagePool::write(std::span<const PoolPart> parts, const IoLimit& limit) {
  std::vector<Batch> batches;
  for (const PoolPart& part : parts) {
    if (part.pool->config_.durability != Durability::kPage) {
      batches.push_back({part});
      continue;
    }
    write_batches(batches, limit);  // what comes before it
    batches.clear();
    part.pool->write_singly(part, limit);
  }
  write_batches(batches, limit);
}

void PagePool::write_batches(std::span<Batch> batches, const IoLimit& limit) {
  std::vector<PageIo::Part> moves;
  for (Batch& batch : batches) {
    batch.part.pool->prepare(batch);
    moves.push_back(batch.move());
  }
  PageIo::move(IoOp::kWrite, moves, limit);
  for (Batch& batch : batches) {
    PagePool& pool = *batch.part.pool;
    if (const int error = pool.sync_segments(batch); error != 0) {
      pool.fail(error);
      for (PageMove& move : batch.moves) move.error = error;
    }
    pool.publish(batch);
  }
}

void PagePool::write_singly(const PoolPart& part, const IoLimit& limit) {
  for (size_t i = 0; i < part.keys.size(); ++i) {
    bool* const is_new = part.is_new == nullptr ? nullptr : part.is_new + i;
    Batch batch{{this, part.keys.subspan(i, 1), part.pages + i, part.is_done + i, is_new}};
    write_batches({&batch, 1}, limit);
  }
  const std::lock_guard table(table_mutex_);
  std::vector<PageId> chain;
  for (const PageKey& key : part.keys) chain.push_back(table_.find(key));
  touch_chain(chain);
}

void PagePool::prepare(Batch& batch) {
  const std::lock_guard append(append_mutex_);
  if (failure_ == 0)
    if (const int error = acquire(); error < 0) fail(-error);
  size_t num_new;
  {
    const std::lock_guard table(table_mutex_);
    follow();
    classify(batch);
    num_new = batch.items.size();
  }
  if (failure_ == 0 && writer_ && num_new > 0)
    make_room(static_cast<uint32_t>(std::min<size_t>(num_new, max_slots_)));
  const std::lock_guard table(table_mutex_);
  std::vector<uint32_t> slots;
  const bool is_writable = failure_ == 0 && writer_;
  if (is_writable)
    slots = slots_.take(static_cast<uint32_t>(std::min<size_t>(num_new, max_slots_)));
  if (own_ != nullptr) batch.segments = own_->segments;
  for (size_t i = 0; i < slots.size(); ++i)
    batch.moves.push_back(
        {batch.segments.get(), slots[i], batch.part.pages[batch.items[i].position]});
  (is_writable ? stats_.num_refused_pages : stats_.num_write_errors) += num_new - slots.size();
  batch.items.resize(slots.size());
}

// What is there stays there until the end of the batch: it is not evicted for the rest of its
// chain.
void PagePool::classify(Batch& batch) {
  std::unordered_map<PageKey, size_t, KeyHash> firsts;
  const size_t num_keys = batch.part.keys.size();
  batch.first_of.resize(num_keys);
  batch.chain.assign(num_keys, kNoPage);
  for (size_t i = 0; i < num_keys; ++i) {
    batch.part.is_done[i] = false;
    if (batch.part.is_new != nullptr) batch.part.is_new[i] = false;
    const auto [first, is_first] = firsts.try_emplace(batch.part.keys[i], i);
    batch.first_of[i] = first->second;
    if (!is_first) continue;
    const PageId id = table_.find(batch.part.keys[i]);
    if (id == kNoPage) {
      batch.items.push_back({i});
      continue;
    }
    ++table_[id].num_pins;
    batch.chain[i] = id;
    batch.part.is_done[i] = true;
  }
}

// Free slots, as many as that if it can be: room on the disk first, then that of the oldest pages.
void PagePool::make_room(uint32_t wanted) {
  uint32_t num_free;
  std::shared_ptr<Segments> segments;
  {
    const std::lock_guard table(table_mutex_);
    num_free = slots_.num_free();
    segments = own_->segments;
  }
  if (num_free < wanted) {
    int error = 0;
    const bool is_durable = config_.durability != Durability::kNone;
    const uint32_t num_slots = segments->grow(wanted - num_free, max_slots_, is_durable, &error);
    if (error < 0) fail(-error);
    const std::lock_guard table(table_mutex_);
    if (num_slots > slots_.num_slots()) slots_.grow_to(num_slots);
    num_free = slots_.num_free();
    PageId id = failure_ == 0 ? table_.oldest() : kNoPage;
    for (PageId newer; id != kNoPage && num_free < wanted; id = newer) {
      newer = table_[id].newer;
      if (table_[id].num_pins > 0) continue;
      bury(id);
      ++stats_.num_evicted_pages;
      ++num_free;
    }
  }
  flush();
  // Or a slot is overwritten, power fails, and the page that it held is back in the index: whoever
  // stored that page again would be told that it is there.
  if (config_.durability == Durability::kNone) return;
  if (const int error = writer_->sync(); error < 0) fail(-error);
}

int PagePool::sync_segments(const Batch& batch) {
  if (config_.durability == Durability::kNone) return 0;
  std::vector<int> synced;
  for (const PageMove& move : batch.moves) {
    Segments::Place place;
    if (move.error != 0 || move.segments->find(move.slot, &place) != 0) continue;
    if (std::find(synced.begin(), synced.end(), place.file) != synced.end()) continue;
    if (const int error = engine_.sync(place.file); error != 0) return error;
    synced.push_back(place.file);
  }
  return 0;
}

void PagePool::publish(Batch& batch) {
  const std::lock_guard append(append_mutex_);
  std::vector<Record> records;
  std::vector<size_t>
      told;  // items, the last of the chain first: so they are ranked at the next open
  {
    const std::lock_guard table(table_mutex_);
    for (size_t i = batch.items.size(); i-- > 0;) {
      const PageMove& move = batch.moves[i];
      const PageKey& key = batch.part.keys[batch.items[i].position];
      const bool is_twin = table_.find(key) != kNoPage;  // another thread was faster
      batch.part.is_done[batch.items[i].position] = is_twin;
      if (move.error != 0) {
        stats_.num_write_errors += move.error != ECANCELED;
        fail(move.error);
      }
      if (move.error != 0 || is_twin) continue;
      records.push_back(make_record(RecordKind::kPage, own_->name, move.slot, ++last_generation_,
                                    key, batch.items[i].checksum));
      told.push_back(i);
    }
  }
  int error = 0;
  const size_t num_told = records.empty() ? 0 : writer_->append(records, &error);
  bool is_durable = true;
  if (num_told > 0 && config_.durability != Durability::kNone) {
    const int synced = writer_->sync();
    is_durable = synced == 0;
    if (!is_durable) fail(-synced);
  }
  if (error < 0) fail(-error);
  {
    const std::lock_guard table(table_mutex_);
    stats_.num_write_errors += records.size() - (is_durable ? num_told : 0);
    for (size_t j = 0; j < num_told; ++j) {
      const Record& record = records[j];
      Batch::Item& item = batch.items[told[j]];
      const PageId id =
          table_.insert(record.key, own_->number, record.slot, record.generation, record.checksum);
      table_.touch(id);
      ++table_[id].num_pins;
      batch.chain[item.position] = id;
      item.is_told = true;
      batch.part.is_done[item.position] = is_durable;
      if (batch.part.is_new != nullptr) batch.part.is_new[item.position] = is_durable;
      stats_.num_written_pages += is_durable;
      if (!is_durable) bury(id);  // others may have seen its record
    }
  }
  finish(batch);
}

void PagePool::finish(Batch& batch) {
  {
    const std::lock_guard table(table_mutex_);
    for (size_t i = 0; i < batch.items.size(); ++i)
      if (!batch.items[i].is_told) slots_.give(batch.moves[i].slot);
    touch_chain(batch.chain);
    for (const PageId id : batch.chain)
      if (id != kNoPage) unpin(id);
  }
  for (size_t i = 0; i < batch.part.keys.size(); ++i)
    batch.part.is_done[i] = batch.part.is_done[batch.first_of[i]];
  compact_if_long(false);
}

}  // namespace hicache::storage
