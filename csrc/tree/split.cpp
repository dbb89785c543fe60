// Splitting a node, and taking it back: tree/split.py. The new node is the prefix; the old one
// keeps its id and becomes the suffix.
#include <algorithm>

#include "hicache/tree_ops.h"

namespace hicache::radix {
namespace {

template <typename T>
std::unique_ptr<T[]> copy_of(const T* data, int64_t count) {
  auto copy = std::make_unique_for_overwrite<T[]>(count);
  std::copy_n(data, count, copy.get());
  return copy;
}

}  // namespace

Node* split(TreeState& state, Node* node, int64_t num_prefix_pages) {
  HICACHE_CHECK(kTree, 0 < num_prefix_pages && num_prefix_pages < node->num_pages(), "node ",
                node->id, " has ", node->num_pages(), " pages: cannot split at ", num_prefix_pages);
  Node* parent = node->parent;
  const Tokens tokens = state.tokens_of(node);
  const int64_t cut = num_prefix_pages * state.page_words;
  const int64_t num_suffix_pages = node->num_pages() - num_prefix_pages;
  auto suffix_tokens = copy_of(tokens.data() + cut, num_suffix_pages * state.page_words);
  Node* prefix = state.make(parent, tokens.first(cut), parent->end + num_prefix_pages);
  state.put_in_place(node, prefix);
  node->tokens = std::move(suffix_tokens);
  node->has_key_hash = false;
  node->parent = prefix;
  state.digest.changed(node);
  state.link_last(prefix, node);
  prefix->made_at = node->made_at;
  prefix->num_hits = node->num_hits;
  prefix->priority = node->priority;
  if (node->page_keys) {
    const uint8_t* keys = node->page_keys.get();
    prefix->page_keys = copy_of(keys, num_prefix_pages * kPageKeyBytes);
    node->page_keys =
        copy_of(keys + num_prefix_pages * kPageKeyBytes, num_suffix_pages * kPageKeyBytes);
  }
  for (const auto& component : state.components) {
    Part &mine = node->parts[component->idx], &its = prefix->parts[component->idx];
    its.used_at = mine.used_at;
    std::copy_n(mine.locks, kNumTiers, its.locks);
    for (int tier = 0; tier < kNumTiers; ++tier)
      if (!mine.pages[tier].empty())
        its.pages[tier] = component->divide(mine.pages[tier], num_prefix_pages);
  }
  for (int tier = 0; tier < kNumTiers; ++tier) prefix->children_on[tier] = node->has(0, tier);
  return prefix;
}

SplitUndo::SplitUndo(const TreeState& state, const Node* node)
    : tokens(copy_of(node->tokens.get(), node->num_pages() * state.page_words)) {
  if (node->page_keys)
    page_keys = copy_of(node->page_keys.get(), node->num_pages() * kPageKeyBytes);
  for (int idx = 0; idx < state.num_components(); ++idx)
    pages.push_back({node->parts[idx].pages[kDevice], node->parts[idx].pages[kHost]});
}

void unsplit(TreeState& state, Node* node, SplitUndo& saved) {
  Node* prefix = node->parent;
  state.children.erase(node->first_page_hash, node);
  state.put_in_place(prefix, node);
  state.digest.changed(node);
  node->parent = prefix->parent;
  node->tokens = std::move(saved.tokens);
  node->has_key_hash = false;
  node->page_keys = std::move(saved.page_keys);
  for (int idx = 0; idx < state.num_components(); ++idx)
    for (int tier = 0; tier < kNumTiers; ++tier)
      node->parts[idx].pages[tier] = std::move(saved.pages[idx][tier]);
  state.next_id = prefix->id;
  state.forget(prefix);
}

}  // namespace hicache::radix
