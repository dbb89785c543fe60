// Host copies of pages that the device has as well: tree/duplicates.py. Most recently used first.
#include <algorithm>
#include <queue>

#include "hicache/tree_ops.h"

namespace hicache::radix {
namespace {

constexpr int64_t kShare = 8;  // a scan gives up this part of what it finds

struct Entry {
  std::array<int64_t, 3> order;  // smallest first: -used_at, -end, id
  Node* node;
  bool operator>(const Entry& other) const { return order > other.order; }
};
using Heap = std::priority_queue<Entry, std::vector<Entry>, std::greater<>>;

Entry entry_of(Node* node, int component_idx) {
  return {{-node->parts[component_idx].used_at, -node->end, node->id}, node};
}

bool can_drop_copy(const TreeState& state, const Node& node, int component_idx) {
  if (node.is_root() || !node.has(component_idx, kDevice) || !node.has(component_idx, kHost))
    return false;
  if (is_locked(state, node, component_idx, kHost)) return false;
  if (!state.components[component_idx]->is_base) return true;
  // A page of another component that only the host has would be lost with the base's.
  if (node.children_on[kHost]) return false;
  for (int idx = 0; idx < state.num_components(); ++idx)
    if (node.has(idx, kHost) && !node.has(idx, kDevice)) return false;
  return true;
}

void drop_copies(TreeState& state, int idx, int64_t num_pages, EvictResult& result) {
  std::vector<Node*> nodes = state.roots;
  std::vector<Entry> entries;
  int64_t num_found = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    Node* node = nodes[i];
    for (Node* child = node->first_child; child; child = child->next) nodes.push_back(child);
    if (!can_drop_copy(state, *node, idx)) continue;
    entries.push_back(entry_of(node, idx));
    num_found += static_cast<int64_t>(node->parts[idx].pages[kHost].size());
  }
  Heap heap(std::greater<>(), std::move(entries));
  const Ids& freed = result.freed[kHost][idx];
  const int64_t wanted = std::max(num_pages, num_found / kShare);
  while (!heap.empty() && static_cast<int64_t>(freed.size()) < wanted) {
    Node* node = heap.top().node;
    heap.pop();
    drop(state, node, idx, kHost, result);
    state.refresh(node);
    Node* above = node->parent;
    if (!state.components[idx]->is_base || above->is_root()) continue;
    state.refresh(above);
    if (can_drop_copy(state, *above, idx)) heap.push(entry_of(above, idx));
  }
}

}  // namespace

EvictResult drop_duplicates(TreeState& state, const std::vector<int64_t>& num_pages) {
  EvictResult result = new_result(state);
  for (int idx = 0; idx < state.num_components(); ++idx)
    if (num_pages[idx] > static_cast<int64_t>(result.freed[kHost][idx].size()))
      drop_copies(state, idx, num_pages[idx], result);
  return result;
}

}  // namespace hicache::radix
