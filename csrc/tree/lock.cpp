// Locks count on whole nodes, back from an end node, as far as each component reaches:
// tree/lock.py.
#include <algorithm>

#include "hicache/tree_ops.h"

namespace hicache::radix {

const Receipt& acquire(TreeState& state, Node* node, int tier, std::vector<int64_t> num_pages) {
  for (int idx = 0; idx < state.num_components(); ++idx) {
    for_suffix(node, num_pages[idx], [&](Node* locked) {
      state.lock(locked, idx, tier);
      state.digest.changed(locked);
    });
  }
  const int64_t id = state.next_ticket++;
  const auto place = state.receipts.emplace(id, Receipt{id, node->id, tier, std::move(num_pages)});
  state.digest.opened(place.first->second);
  return place.first->second;
}

void release(TreeState& state, int64_t id) {
  const auto found = state.receipts.find(id);
  HICACHE_CHECK(kTree, found != state.receipts.end(), "receipt ", id, " is not open");
  const Receipt receipt = std::move(found->second);
  state.receipts.erase(found);
  Node* node = state.get(receipt.node);
  state.digest.closed(receipt);
  for (int idx = 0; idx < state.num_components(); ++idx)
    for_suffix(node, receipt.num_pages[idx],
               [&](Node* locked) { state.unlock(locked, idx, receipt.tier); });
  const int64_t most = *std::max_element(receipt.num_pages.begin(), receipt.num_pages.end());
  for_suffix(node, most, [&](Node* unlocked) {
    state.digest.changed(unlocked);
    state.refresh(unlocked);
  });
}

int64_t release_window(TreeState& state, int64_t id, int component_idx) {
  Receipt& receipt = state.receipts.at(id);
  Node* node = state.get(receipt.node);
  const int64_t num_pages = receipt.num_pages[component_idx];
  for_suffix(node, num_pages,
             [&](Node* locked) { state.unlock(locked, component_idx, receipt.tier); });
  state.digest.closed(receipt);
  receipt.num_pages[component_idx] = 0;
  state.digest.opened(receipt);
  for_suffix(node, num_pages, [&](Node* unlocked) {
    state.digest.changed(unlocked);
    state.refresh(unlocked);
  });
  return num_pages;
}

std::vector<int64_t> whole_nodes(const TreeState& state, Node* node,
                                 const std::vector<int64_t>& num_pages) {
  std::vector<int64_t> reach(state.components.size(), 0);
  for (int idx = 0; idx < state.num_components(); ++idx)
    reach[idx] = covered_pages(*node, num_pages[idx]);
  reach[0] = node->end;  // what lies on the path must not vanish
  return reach;
}

}  // namespace hicache::radix
