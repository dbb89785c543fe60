// Eviction: tree/evict.py. Victims come from the queues, oldest first.
#include <algorithm>

#include "hicache/tree_ops.h"

namespace hicache::radix {
namespace {

int other_tier(int tier) { return tier == kDevice ? kHost : kDevice; }

// The deepest first; the same order on every rank.
void sort_bottom_up(std::vector<Node*>& nodes) {
  std::sort(nodes.begin(), nodes.end(), [](const Node* a, const Node* b) {
    return a->end != b->end ? a->end > b->end : a->id < b->id;
  });
}

// All nodes below those of the list are added to it.
void add_below(std::vector<Node*>& nodes) {
  for (size_t i = 0; i < nodes.size(); ++i)
    for (Node* child = nodes[i]->first_child; child; child = child->next) nodes.push_back(child);
}

// Takes `node`, which has no pages left, out of the tree, with what the host has below it.
void remove_below(TreeState& state, Node* node, EvictResult& result) {
  std::vector<Node*> lost = {node};
  add_below(lost);
  sort_bottom_up(lost);
  for (Node* below : lost) {
    drop(state, below, 0, kHost, result);
    state.remove(below);
  }
}

// Gives up all of a leaf's pages on `tier`, and the node if that was all it had.
void evict_leaf(TreeState& state, Node* node, int tier, EvictResult& result) {
  Node* parent = node->parent;
  drop(state, node, 0, tier, result);
  if (node->has(0, other_tier(tier)))
    state.refresh(node);
  else
    remove_below(state, node, result);
  state.refresh(parent);
}

// Whether no match can end at `node` or below it.
bool is_dead_end(const TreeState& state, const Node& node) {
  if (node.first_child) return false;
  return !std::all_of(state.components.begin(), state.components.end(),
                      [&](const auto& component) { return component->can_end(node); });
}

void evict_victim(TreeState& state, Node* node, int component_idx, int tier, EvictResult& result) {
  if (!can_drop_base(state, *node, tier)) {
    drop(state, node, component_idx, tier, result);
    state.refresh(node);
    return;
  }
  Node* above = node->parent;
  evict_leaf(state, node, tier, result);
  while (is_dead_end(state, *above) && can_drop_base(state, *above, tier)) {
    node = above;
    above = node->parent;
    evict_leaf(state, node, tier, result);
  }
}

// Gives up what is not locked at `node`, host copies of pages on the device included.
void clear_node(TreeState& state, Node* node, int tier, EvictResult& result) {
  for (int idx = state.num_components() - 1; idx >= 0; --idx) {
    if (!node->has(idx, tier) || is_locked(state, *node, idx, tier)) continue;
    if (!state.components[idx]->is_base) {
      drop(state, node, idx, tier, result);
    } else if (!node->children_on[tier]) {
      const bool is_elsewhere = node->has(0, other_tier(tier));
      if (!is_elsewhere && !can_drop_base(state, *node, tier)) continue;
      drop(state, node, idx, tier, result);
      if (!is_elsewhere) return remove_below(state, node, result);
    }
  }
  state.refresh(node);
}

}  // namespace

EvictResult new_result(const TreeState& state) {
  EvictResult result;
  for (IdsByComponent& freed : result.freed) freed.resize(state.components.size());
  return result;
}

void drop(TreeState& state, Node* node, int component_idx, int tier, EvictResult& result) {
  const int rank = state.components[component_idx]->rank;
  for (const auto& other : state.components) {
    if (other->idx != component_idx && other->rank >= rank) continue;
    const Ids pages = state.detach(node, other->idx, tier);
    Ids& freed = result.freed[tier][other->idx];
    freed.insert(freed.end(), pages.begin(), pages.end());
  }
}

EvictResult evict(TreeState& state, int tier, const std::vector<int64_t>& num_pages) {
  EvictResult result = new_result(state);
  for (int idx = 0; idx < state.num_components(); ++idx) {
    const Ids& freed = result.freed[tier][idx];
    while (static_cast<int64_t>(freed.size()) < num_pages[idx]) {
      Node* victim = state.queue(idx, tier).pop();
      if (!victim) break;
      evict_victim(state, victim, idx, tier, result);
    }
  }
  return result;
}

EvictResult clear(TreeState& state, int tier) {
  EvictResult result = new_result(state);
  std::vector<Node*> nodes = state.roots;
  add_below(nodes);
  sort_bottom_up(nodes);
  for (Node* node : nodes)
    if (!node->is_root()) clear_node(state, node, tier, result);
  return result;
}

}  // namespace hicache::radix
