// The defaults of the hooks: one page per page of the node, all of them or none.
#include <algorithm>

#include "hicache/tree_component.h"

namespace hicache::radix {

void Component::bind(int place, int64_t) { idx = place; }

bool Component::can_end(const Node& node) const {
  return node.has(idx, kDevice) || node.has(idx, kHost);
}

void Component::cuts(IdsView row, int64_t origin, std::vector<int64_t>& cuts) const {
  for (size_t i = 1; i < row.size(); ++i)
    if ((row[i] < 0) != (row[i - 1] < 0)) cuts.push_back(origin + static_cast<int64_t>(i));
}

IdsView Component::value(IdsView row) const {
  const bool whole = std::all_of(row.begin(), row.end(), [](PageId page) { return page >= 0; });
  return whole ? row : IdsView();
}

Ids Component::divide(Ids& value, int64_t num_prefix_pages) const {
  const auto cut = value.begin() + num_prefix_pages;
  Ids prefix(value.begin(), cut), suffix(cut, value.end());  // copies: neither keeps spare room
  value = std::move(suffix);
  return prefix;
}

IdsView Component::spread(IdsView value, int64_t, Ids&) const { return value; }

std::string Component::misfit(IdsView value, int64_t num_pages, int tier) const {
  if (value.empty() || static_cast<int64_t>(value.size()) == num_pages) return {};
  return name + " " + (tier == kDevice ? "device" : "host") + ": " + std::to_string(value.size()) +
         " pages on " + std::to_string(num_pages) + " (I10)";
}

int64_t covered_pages(const Node& node, int64_t num_pages) {
  const int64_t begin = node.end - num_pages;
  const Node* above = &node;
  while (!above->is_root() && above->end > begin) above = above->parent;
  return node.end - above->end;
}

std::vector<Node*> suffix_top_down(Node* node, int64_t num_pages) {
  std::vector<Node*> nodes;
  for_suffix(node, num_pages, [&](Node* above) { nodes.push_back(above); });
  std::reverse(nodes.begin(), nodes.end());
  return nodes;
}

}  // namespace hicache::radix
