// Which node goes next: tree/queue.py. A node stays in the heap when it stops being a candidate or
// when its order grows; both are found out when it comes to the top.
#include <algorithm>

#include "hicache/tree_state.h"

namespace hicache::radix {
namespace {

constexpr int64_t kCompactSlack = 64;

bool goes_later(const EvictQueue::Entry& a, const EvictQueue::Entry& b) {
  return a.order != b.order ? a.order > b.order : a.id > b.id;
}

}  // namespace

bool is_locked(const TreeState& state, const Node& node, int component_idx, int tier) {
  const int rank = state.components[component_idx]->rank;
  for (const auto& other : state.components)
    if (other->idx == component_idx || other->rank < rank)
      if (node.parts[other->idx].locks[tier]) return true;
  return false;
}

bool can_drop_base(const TreeState&, const Node& node, int tier) {
  const Part& part = node.parts[0];
  if (node.is_root() || part.pages[tier].empty() || part.locks[tier] || node.children_on[tier])
    return false;
  const int other = tier == kDevice ? kHost : kDevice;
  if (!part.pages[other].empty()) return tier == kDevice;
  return !part.locks[other];
}

bool can_drop(const TreeState& state, const Node& node, int component_idx, int tier) {
  if (state.components[component_idx]->is_base) return can_drop_base(state, node, tier);
  const Part& part = node.parts[component_idx];
  if (part.pages[tier].empty()) return false;
  if (tier == kHost && !part.pages[kDevice].empty()) return false;
  return !is_locked(state, node, component_idx, tier);
}

EvictQueue::Order EvictQueue::order_of(const Node& node) const {
  const int64_t used_at = node.parts[component_idx_].used_at;
  return {used_at > 0, strategy_value(state_->strategy, node), used_at, node.made_at, node.end};
}

std::vector<Node*> EvictQueue::coldest(int64_t num_pages) {
  std::vector<Node*> nodes;
  while (num_pages > 0) {
    Node* node = pop();
    if (!node) break;
    nodes.push_back(node);
    num_pages -= static_cast<int64_t>(node->parts[component_idx_].pages[tier_].size());
  }
  for (Node* node : nodes) refresh(node);
  return nodes;
}

void EvictQueue::refresh(Node* node) {
  Part& part = node->parts[component_idx_];
  if (part.queued[tier_] || part.pages[tier_].empty()) return;
  if (!can_drop(*state_, *node, component_idx_, tier_)) return;
  part.queued[tier_] = true;
  ++num_live_;
  heap_.push_back({order_of(*node), node->id, node});
  std::push_heap(heap_.begin(), heap_.end(), goes_later);
}

void EvictQueue::forget(Node* node) {
  if (!std::exchange(node->parts[component_idx_].queued[tier_], false)) return;
  --num_live_;
  if (static_cast<int64_t>(heap_.size()) <= 2 * num_live_ + kCompactSlack) return;
  std::erase_if(heap_, [node](const Entry& e) { return !e.is_alive() || e.node == node; });
  std::make_heap(heap_.begin(), heap_.end(), goes_later);
}

Node* EvictQueue::pop() {
  while (!heap_.empty()) {
    const Entry top = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end(), goes_later);
    heap_.pop_back();
    if (!top.is_alive()) continue;
    const bool is_candidate = can_drop(*state_, *top.node, component_idx_, tier_);
    const Order order = order_of(*top.node);
    if (is_candidate && order != top.order) {
      heap_.push_back({order, top.id, top.node});
      std::push_heap(heap_.begin(), heap_.end(), goes_later);
      continue;
    }
    top.node->parts[component_idx_].queued[tier_] = false;
    --num_live_;
    if (is_candidate) return top.node;
  }
  return nullptr;
}

}  // namespace hicache::radix
