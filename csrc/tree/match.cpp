// Walking down the tree with a prompt, and the match: tree/match.py.
#include <algorithm>
#include <cstring>

#include "hicache/tree_ops.h"

namespace hicache::radix {
namespace {

constexpr int64_t kBlockTokens = 1024;  // what is compared before a difference is searched for

// How many leading pages of `edge` equal `key`.
int64_t common_pages(Tokens edge, Tokens key, int64_t page_words) {
  const auto size = static_cast<int64_t>(std::min(edge.size(), key.size()));
  int64_t same = 0;
  while (same < size) {
    const int64_t count = std::min(kBlockTokens, size - same);
    if (std::memcmp(edge.data() + same, key.data() + same, count * sizeof(uint32_t))) break;
    same += count;
  }
  while (same < size && edge[same] == key[same]) ++same;
  return same / page_words;
}

}  // namespace

Walk walk(const TreeState& state, Node* start, Tokens key) {
  Walk result;
  Node* node = start;
  while (!key.empty()) {
    Node* child = state.find_child(node, key.first(state.page_words));
    if (!child) break;
    result.nodes.push_back(child);
    result.matched = common_pages(state.tokens_of(child), key, state.page_words);
    if (result.matched < child->num_pages()) break;
    key = key.subspan(result.matched * state.page_words);
    node = child;
  }
  return result;
}

Tokens whole_pages(const TreeState& state, Tokens tokens) {
  return tokens.first(tokens.size() / state.page_words * state.page_words);
}

std::vector<Node*> walk_and_split(TreeState& state, Node* start, Tokens key) {
  Walk found = walk(state, start, key);
  if (!found.nodes.empty() && found.matched < found.nodes.back()->num_pages()) {
    found.nodes.back() = split(state, found.nodes.back(), found.matched);
    state.refresh(found.nodes.back());
  }
  return std::move(found.nodes);
}

MatchResult match_prefix(TreeState& state, Tokens tokens, const std::string& name_space) {
  const Tokens key = whole_pages(state, tokens);
  Node* root = state.find_root(name_space);
  const bool is_new_root = !root;
  if (!root) root = state.make_root(name_space);
  const std::vector<Node*> nodes = walk_and_split(state, root, key);
  std::vector<std::unique_ptr<Gate>> gates;
  for (const auto& component : state.components) gates.push_back(component->gate());
  Node *best = root, *device = root;
  for (Node* node : nodes) {
    int views = kViewAll;
    for (const auto& gate : gates) views &= gate->step(*node);
    if (views & kViewAny) best = node;
    if (views & kViewDevice) device = node;
  }
  Node* host = best;
  while (!state.can_hang_on_host(host)) host = host->parent;
  ++state.clock;
  state.touch(best);
  for_suffix(best, best->end, [](Node* used) { ++used->num_hits; });
  return {root,
          best,
          device,
          host,
          nodes.empty() ? root : nodes.back(),
          is_new_root,
          state.num_pages(key),
          state.hash_of(key)};
}

}  // namespace hicache::radix
