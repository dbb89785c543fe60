// The node of the native radix tree and its part per component. Data only, as tree/node.py.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace hicache::radix {

using PageId = int64_t;
using NodeId = int64_t;
using Ids = std::vector<PageId>;
using IdsView = std::span<const PageId>;
using Tokens = std::span<const uint32_t>;

inline constexpr PageId kHole = -1;  // in a row of ids: nothing is handed over, or nothing is there
inline constexpr int kDevice = 0, kHost = 1, kNumTiers = 2;
inline constexpr int64_t kPageKeyBytes = 32;

// What one component holds at one node.
struct Part {
  Ids pages[kNumTiers];  // the whole node's value; empty: none
  int64_t used_at = 0;   // logical clock of the last end point that needed it; 0: none has yet
  int32_t locks[kNumTiers] = {0, 0};
  bool queued[kNumTiers] = {false, false};  // whether an eviction queue knows the node
};

// A page-aligned run of tokens below `parent`; a root is its own parent and has no tokens. Children
// are listed in the order in which they came; a table finds them by their first page.
struct Node {
  NodeId id = -1;  // -1: a slot without a node; queues may still point to it
  Node* parent = nullptr;
  const std::string* name_space = nullptr;
  std::unique_ptr<uint32_t[]> tokens;  // of this edge
  int64_t end = 0;                     // pages from the root to the end of this node
  std::unique_ptr<Part[]> parts;       // by component, in the order of registration
  Node *first_child = nullptr, *last_child = nullptr, *previous = nullptr, *next = nullptr;
  uint64_t first_page_hash = 0;
  std::unique_ptr<uint8_t[]> page_keys;     // kPageKeyBytes per page, once somebody asked for them
  int32_t children_on[kNumTiers] = {0, 0};  // children that hold base pages on the tier
  int64_t made_at = 0;                      // logical clock
  int64_t num_hits = 0;  // matches through it, and the insert that made it; grows upwards
  int64_t priority = 0;  // the highest that an insert through it had; grows upwards
  int64_t key_hash = 0;  // of the tokens, of a root's namespace; for the digest
  bool has_key_hash = false;
  bool is_changed = false;  // what the digest's sum has of this node is old
  bool is_listed = false;   // the digest's list of changed nodes has this slot
  uint64_t hash_in_digest = 0;

  bool is_root() const { return parent == this; }
  bool is_alive() const { return id >= 0; }
  int64_t start() const { return parent->end; }
  int64_t num_pages() const { return end - parent->end; }
  bool has(int component_idx, int tier) const { return !parts[component_idx].pages[tier].empty(); }
};

// Calls fn(node) for the nodes that cover the last `num_pages` pages before the end of `node`,
// bottom-up, whole nodes.
template <typename Fn>
void for_suffix(Node* node, int64_t num_pages, Fn&& fn) {
  const int64_t begin = node->end - num_pages;
  while (!node->is_root() && node->end > begin) {
    Node* above = node->parent;
    fn(node);
    node = above;
  }
}

// Pages of the whole nodes that cover the last `num_pages` pages before the end of `node`.
int64_t covered_pages(const Node& node, int64_t num_pages);

// The nodes of for_suffix() as a list, top-down.
std::vector<Node*> suffix_top_down(Node* node, int64_t num_pages);

}  // namespace hicache::radix
