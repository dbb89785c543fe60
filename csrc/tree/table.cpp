// NodeTable and NodePool.
#include <cstring>

#include "hicache/tree_table.h"

namespace hicache::radix {

uint64_t mix64(uint64_t a, uint64_t b) {
  const auto product =
      static_cast<unsigned __int128>(a ^ 0x9e3779b97f4a7c15ULL) * (b ^ 0xd6e8feb86659fd93ULL);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t page_hash(Tokens page) {
  uint64_t hash = page.size();
  size_t i = 0;
  for (; i + 4 <= page.size(); i += 4) {
    uint64_t words[2];
    std::memcpy(words, page.data() + i, sizeof(words));
    hash = mix64(words[0] ^ hash, words[1]);
  }
  for (; i < page.size(); ++i) hash = mix64(page[i] ^ hash, page.size());
  return hash;
}

void NodeTable::reserve_one() {
  if (2 * (size_ + 1) <= entries_.size()) return;
  std::vector<Entry> larger(2 * entries_.size());
  larger.swap(entries_);
  size_ = 0;
  for (const Entry& entry : larger)
    if (entry.node) insert(entry.hash, entry.node);
}

void NodeTable::insert(uint64_t hash, Node* node) {
  reserve_one();
  size_t i = hash & mask();
  while (entries_[i].node) i = (i + 1) & mask();
  entries_[i] = {hash, node};
  ++size_;
}

size_t NodeTable::place_of(uint64_t hash, const Node* node) const {
  size_t i = hash & mask();
  while (entries_[i].node != node) i = (i + 1) & mask();
  return i;
}

void NodeTable::erase(uint64_t hash, const Node* node) {
  size_t gap = place_of(hash, node);
  --size_;
  // Whoever was pushed past the gap moves into it, so that probing never has to step over it.
  for (size_t i = (gap + 1) & mask(); entries_[i].node; i = (i + 1) & mask()) {
    const size_t wanted = entries_[i].hash & mask();
    if (((i - wanted) & mask()) < ((i - gap) & mask())) continue;
    entries_[gap] = entries_[i];
    gap = i;
  }
  entries_[gap] = {};
}

void NodeTable::replace(uint64_t hash, const Node* old, Node* node) {
  entries_[place_of(hash, old)].node = node;
}

Node* NodePool::take() {
  if (free_.empty()) {
    auto chunk = std::make_unique<Node[]>(kChunk);
    free_.reserve(kChunk * (chunks_.size() + 1));  // give_back() need not allocate
    for (int64_t i = kChunk - 1; i >= 0; --i) free_.push_back(&chunk[i]);
    chunks_.push_back(std::move(chunk));
  }
  Node* node = free_.back();
  if (!node->parts) node->parts = std::make_unique<Part[]>(num_components_);
  free_.pop_back();
  return node;
}

void NodePool::give_back(Node* node) {
  const bool is_listed = node->is_listed;  // the digest's list still has the slot
  std::unique_ptr<Part[]> parts = std::move(node->parts);
  for (int i = 0; i < num_components_; ++i) parts[i] = Part();
  *node = Node();
  node->parts = std::move(parts);
  node->is_listed = is_listed;
  free_.push_back(node);
}

}  // namespace hicache::radix
