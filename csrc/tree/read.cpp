// What can be asked of a path without changing anything that others see: tree/read.py.
#include <algorithm>

#include "hicache/tree_ops.h"

namespace hicache::radix {

Ids path_pages(const TreeState& state, Node* node, int component_idx, int tier, int64_t num_pages) {
  num_pages = std::min(num_pages, node->end);
  Ids ids(num_pages, kHole), scratch;
  const int64_t begin = node->end - num_pages;
  for_suffix(node, num_pages, [&](const Node* part) {
    const Ids& value = part->parts[component_idx].pages[tier];
    if (value.empty()) return;
    const IdsView row = state.components[component_idx]->spread(value, part->num_pages(), scratch);
    const int64_t num_above = std::max<int64_t>(begin - part->start(), 0);
    std::copy(row.begin() + num_above, row.end(),
              ids.begin() + (part->start() + num_above - begin));
  });
  return ids;
}

std::vector<const Node*> nodes_with_keys(TreeState& state, Node* node) {
  const std::vector<Node*> nodes = suffix_top_down(node, node->end);
  for (Node* part : nodes) {
    if (part->page_keys) continue;
    const Node* above = part->parent;
    std::span<const uint8_t> seed;
    if (!above->is_root())
      seed = {above->page_keys.get() + (above->num_pages() - 1) * kPageKeyBytes, kPageKeyBytes};
    auto keys = std::make_unique_for_overwrite<uint8_t[]>(part->num_pages() * kPageKeyBytes);
    state.page_keys(state.tokens_of(part), *part->name_space, seed, keys.get());
    part->page_keys = std::move(keys);
  }
  return {nodes.begin(), nodes.end()};
}

}  // namespace hicache::radix
