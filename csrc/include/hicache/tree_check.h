// The invariants of the tree, I1 to I16 of tree/integrity.py, in the same words. Everything is
// found anew from the nodes below the roots: counts, flags, tables and sums are what is checked.
#pragma once

#include <sstream>
#include <unordered_map>

#include "hicache/tree_state.h"

namespace hicache::radix {

// A node and where it was found; its own pointers upwards are not trusted.
struct Place {
  const Node* node;
  size_t above;                // place of its parent; a root's own
  size_t first = 0, last = 0;  // places of its children
  int32_t children_on[kNumTiers] = {0, 0};

  bool has(int component_idx, int tier) const { return node->has(component_idx, tier); }
};

// All that can be reached from the roots, breadth first, and what was found to be wrong with it.
struct Survey {
  explicit Survey(const TreeState& state);

  // nullptr: no such node can be reached.
  const Place* find(NodeId id) const;
  bool is_root(const Place& place) const { return &places[place.above] == &place; }
  int64_t num_pages(const Place& place) const {
    return place.node->end - places[place.above].node->end;
  }
  // Calls fn(place number) bottom-up for the whole nodes that cover the last `num_pages` pages.
  template <typename Fn>
  void for_suffix(const Place& end, int64_t num_pages, Fn&& fn) const {
    const int64_t begin = end.node->end - num_pages;
    for (const Place* place = &end; !is_root(*place) && place->node->end > begin;
         place = &places[place->above])
      fn(static_cast<size_t>(place - places.data()));
  }
  template <typename... Args>
  void add(const Args&... args) {
    std::ostringstream text;
    (text << ... << args);
    found.push_back(text.str());
  }

  const TreeState& state;
  std::vector<Place> places;  // the roots first
  std::unordered_map<NodeId, size_t> numbers;
  std::vector<std::string> found;
};

void check_tables(Survey& survey);  // what only this core has: tables, lists, slots
void check_ownership(Survey& survey);
void check_receipts(Survey& survey);
void check_plans(Survey& survey);
void check_locks(Survey& survey);
void check_nodes(Survey& survey);  // what each node holds, and where a match may end
void check_queues(Survey& survey);

// All that is wrong; those of check_tables first.
std::vector<std::string> violations(TreeState& state);

// As Python writes them.
const char* upper_name(int tier);
const char* text_of(bool value);
std::string text_of(const std::vector<int64_t>& values);
std::string bytes_text(const std::string& bytes);

}  // namespace hicache::radix
