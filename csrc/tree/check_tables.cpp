// What only this core has to be right about: hash tables, lists of siblings, counts of the ledger.
#include <cstring>

#include "hicache/tree_check.h"

namespace hicache::radix {
namespace {

void check_children(Survey& survey, const Place& place) {
  const TreeState& state = survey.state;
  const Node& node = *place.node;
  const Node* previous = nullptr;
  for (size_t i = place.first; i < place.last; ++i) {
    const Node* child = survey.places[i].node;
    const auto add = [&](const char* text) {
      survey.add("node ", node.id, ", child ", child->id, ": ", text);
    };
    if (child->previous != previous) add("its sibling before is another");
    previous = child;
    if (survey.num_pages(survey.places[i]) <= 0 || child->parent != &node) continue;
    const Tokens first_page = state.tokens_of(child).first(state.page_words);
    const uint64_t hash = state.child_hash(&node, first_page);
    if (child->first_page_hash != hash) add("the hash of its first page is of another");
    const auto is_it = [&](const Node& other) {
      return other.parent == &node &&
             !std::memcmp(other.tokens.get(), first_page.data(), first_page.size_bytes());
    };
    if (state.children.find(hash, is_it) != child)
      add("the table of children has it not for its first page");
  }
  if (node.last_child != previous) survey.add("node ", node.id, ": its last child is another");
}

void check_roots(Survey& survey) {
  const auto& roots = survey.state.roots;
  for (const Node* root : roots)
    if (survey.state.find_root(*root->name_space) != root)
      survey.add("root ", root->id, ": another has its namespace");
}

}  // namespace

void check_tables(Survey& survey) {
  const TreeState& state = survey.state;
  check_roots(survey);
  for (const Place& place : survey.places) {
    if (state.find(place.node->id) != place.node)
      survey.add("node ", place.node->id, ": the table of ids has it not");
    check_children(survey, place);
  }
  const size_t num_nodes = survey.places.size(), num_children = num_nodes - state.roots.size();
  if (num_nodes != state.nodes.size() || num_children != state.children.size())
    survey.add(num_nodes, " nodes and ", num_children, " children can be reached, the tables have ",
               state.nodes.size(), " and ", state.children.size());
  for (const auto& component : state.components)
    for (int tier = 0; tier < kNumTiers; ++tier) {
      const Ledger& ledger = state.owned[component->idx][tier];
      const size_t num_pages = ledger.sorted().size();
      if (static_cast<int64_t>(num_pages) != ledger.size())
        survey.add(component->name, " ", upper_name(tier), ": the ledger has ", num_pages,
                   " pages and counts ", ledger.size());
    }
}

}  // namespace hicache::radix
