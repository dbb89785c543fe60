// The operations of the native tree, each as in the file of tree/ that has its name. They check
// everything before they change anything; ErrorKind::kTree with the values is TreeError in Python.
#pragma once

#include "hicache/tree_state.h"

namespace hicache::radix {

// --- walking and splitting -----------------------------------------------------------------------

struct Walk {
  std::vector<Node*> nodes;  // below the start, top-down
  int64_t matched = 0;       // pages of the last one that match
};

Walk walk(const TreeState& state, Node* start, Tokens key);
// walk(), with a split where `key` leaves an edge: every node returned matches whole.
std::vector<Node*> walk_and_split(TreeState& state, Node* start, Tokens key);
Tokens whole_pages(const TreeState& state, Tokens tokens);

// Splits `node` behind its first pages; returns the prefix, a new node.
Node* split(TreeState& state, Node* node, int64_t num_prefix_pages);

// What a node was before it was split; taken before, so that undoing allocates nothing.
struct SplitUndo {
  SplitUndo(const TreeState& state, const Node* node);
  std::unique_ptr<uint32_t[]> tokens;
  std::unique_ptr<uint8_t[]> page_keys;
  std::vector<std::array<Ids, kNumTiers>> pages;  // by component
};
void unsplit(TreeState& state, Node* node, SplitUndo& saved);

// --- match, insert -------------------------------------------------------------------------------

struct MatchResult {
  const Node *root, *best, *device, *host, *deepest;
  bool is_new_root;
  int64_t num_pages, key_hash;  // of the key that was asked for
};
MatchResult match_prefix(TreeState& state, Tokens tokens, const std::string& name_space);

using Rows = std::vector<IdsView>;  // by component, one id per page
using IdsByComponent = std::vector<Ids>;

struct InsertResult {
  const Node *root, *node;
  bool is_new_root;
  int64_t num_pages, key_hash, num_present_pages;
  std::vector<int64_t> num_given;
  IdsByComponent released;
};
InsertResult insert(TreeState& state, Tokens tokens, const Rows& rows,
                    const std::string& name_space, int64_t priority);

struct InsertHostResult {
  const Node* node;  // nullptr: dropped
  int64_t num_pages, key_hash, num_present_pages;
  Ids released;
};
InsertHostResult insert_host(TreeState& state, NodeId anchor, Tokens tokens, IdsView pages);

// Adds those of `row` that are ids and differ from what is held at the same place.
void add_foreign(IdsView row, IdsView held, Ids& ids);

// --- locks ---------------------------------------------------------------------------------------

// Locks so many pages per component back from the end of `node`; they end at node borders.
const Receipt& acquire(TreeState& state, Node* node, int tier, std::vector<int64_t> num_pages);
void release(TreeState& state, int64_t receipt);
// Releases what an open receipt keeps of one component; returns how many pages that were.
int64_t release_window(TreeState& state, int64_t receipt, int component_idx);
// Rounded up to whole nodes; a component that is not named has -1.
std::vector<int64_t> whole_nodes(const TreeState& state, Node* node,
                                 const std::vector<int64_t>& num_pages);

// --- pages out -----------------------------------------------------------------------------------

struct EvictResult {
  std::array<IdsByComponent, kNumTiers> freed;
};
EvictResult evict(TreeState& state, int tier, const std::vector<int64_t>& num_pages);
EvictResult clear(TreeState& state, int tier);
// Host pages that the device has too.
EvictResult drop_duplicates(TreeState& state, const std::vector<int64_t>& num_pages);
EvictResult new_result(const TreeState& state);
// Gives up the component's pages on `tier`, and those of the components that it takes with it.
void drop(TreeState& state, Node* node, int component_idx, int tier, EvictResult& result);

// --- between the tiers ---------------------------------------------------------------------------

// Only nodes with `min_hits` among those that cover the last `num_pages`. nullptr: nothing to copy.
const Plan* begin_backup(TreeState& state, NodeId node, int64_t num_pages, int64_t min_hits);
const Plan* begin_load_back(TreeState& state, NodeId node);  // the same
// `rows` by component, in span order. Returns what was not needed.
IdsByComponent commit(TreeState& state, int64_t plan, const Rows& rows);
void abort(TreeState& state, int64_t plan);

// --- reading -------------------------------------------------------------------------------------

// The last `num_pages` ids of the path to `node`, kHole where there is none.
Ids path_pages(const TreeState& state, Node* node, int component_idx, int tier, int64_t num_pages);
// The page keys of the nodes on the path, top-down; computed on first use and kept.
std::vector<const Node*> nodes_with_keys(TreeState& state, Node* node);

}  // namespace hicache::radix
