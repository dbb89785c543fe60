// Storage of the tree: a pool of nodes, hash tables that find them, and the ledger of owned pages.
#pragma once

#include <unordered_map>

#include "hicache/tree_node.h"

namespace hicache::radix {

uint64_t mix64(uint64_t a, uint64_t b);
// Of the tokens of a page; no cryptographic hash, so whoever finds by it compares.
uint64_t page_hash(Tokens page);

// Nodes by a hash: open addressing with linear probing, at most half full; an erased entry leaves
// no gap. Two nodes may have the same hash.
class NodeTable {
 public:
  NodeTable() : entries_(16) {}

  // The first node of this hash for which is_it(node); nullptr if there is none.
  template <typename Pred>
  Node* find(uint64_t hash, Pred&& is_it) const {
    for (size_t i = hash & mask(); entries_[i].node; i = (i + 1) & mask())
      if (entries_[i].hash == hash && is_it(*entries_[i].node)) return entries_[i].node;
    return nullptr;
  }
  // Room for one more, so that the next insert() does not allocate.
  void reserve_one();
  void insert(uint64_t hash, Node* node);
  void erase(uint64_t hash, const Node* node);
  // The entry of `old` points to `node` from now on.
  void replace(uint64_t hash, const Node* old, Node* node);
  size_t size() const { return size_; }

 private:
  struct Entry {
    uint64_t hash = 0;
    Node* node = nullptr;
  };
  size_t mask() const { return entries_.size() - 1; }
  size_t place_of(uint64_t hash, const Node* node) const;

  std::vector<Entry> entries_;
  size_t size_ = 0;
};

// Slots that never move and are never given back, so that a stale pointer can be looked at: a slot
// in use has the id of its node.
class NodePool {
 public:
  explicit NodePool(int num_components) : num_components_(num_components) {}
  Node* take();
  void give_back(Node* node);

 private:
  static constexpr int64_t kChunk = 256;
  int num_components_;
  std::vector<std::unique_ptr<Node[]>> chunks_;
  std::vector<Node*> free_;
};

// A set of page ids, in chunks of bits.
class Ledger {
 public:
  bool contains(PageId page) const;
  // Adds the page; false if it was there already.
  bool add(PageId page);
  void add(IdsView pages);
  void remove(IdsView pages);
  int64_t size() const { return size_; }
  Ids sorted() const;

 private:
  static constexpr int kChunkBits = 15;
  using Chunk = std::unique_ptr<uint64_t[]>;
  uint64_t* chunk(PageId page);  // made on demand

  std::unordered_map<PageId, Chunk> chunks_;  // by the high bits of the page id
  PageId last_ = -1;                          // the chunk that was looked at last
  uint64_t* last_bits_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace hicache::radix
