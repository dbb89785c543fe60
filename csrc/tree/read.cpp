// What can be asked of a path without changing anything that others see: tree/read.py; and what
// only this core has to be right about.
#include <algorithm>
#include <cstring>

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

std::vector<std::string> native_violations(const TreeState& state) {
  std::vector<std::string> found;
  size_t num_nodes = 0, num_children = 0;
  std::vector<Node*> todo = state.roots;
  while (!todo.empty()) {
    Node* node = todo.back();
    todo.pop_back();
    ++num_nodes;
    const std::string name = "node " + std::to_string(node->id);
    if (state.find(node->id) != node) found.push_back(name + ": the table of ids has it not");
    const Node* previous = nullptr;
    for (Node* child = node->first_child; child; child = child->next) {
      const Tokens first_page = state.tokens_of(child).first(state.page_words);
      const std::string what = name + ", child " + std::to_string(child->id);
      if (child->parent != node || child->previous != previous)
        found.push_back(what + ": parent or sibling is another");
      if (child->first_page_hash != state.child_hash(node, first_page))
        found.push_back(what + ": the hash of its first page is of another");
      if (state.children.find(child->first_page_hash,
                              [&](const Node& other) { return &other == child; }) != child)
        found.push_back(what + ": the table of children has it not");
      previous = child;
      ++num_children;
      todo.push_back(child);
    }
    if (node->last_child != previous) found.push_back(name + ": its last child is another");
  }
  if (num_nodes != state.nodes.size() || num_children != state.children.size())
    found.push_back(std::to_string(num_nodes) + " nodes and " + std::to_string(num_children) +
                    " children are reachable, the tables have " +
                    std::to_string(state.nodes.size()) + " and " +
                    std::to_string(state.children.size()));
  return found;
}

}  // namespace hicache::radix
