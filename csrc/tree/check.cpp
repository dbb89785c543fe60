// All nodes, that they make a tree, and the digest: tree/integrity.py.
#include "hicache/tree_check.h"

namespace hicache::radix {

Survey::Survey(const TreeState& state) : state(state) {
  const auto reach = [this](const Node* node, size_t above) {
    if (!numbers.emplace(node->id, places.size()).second) {
      add("node ", node->id, " can be reached twice");
      return false;
    }
    places.push_back({node, above});
    return true;
  };
  for (const Node* root : state.roots) reach(root, places.size());
  for (size_t i = 0; i < places.size(); ++i) {
    places[i].first = places.size();
    for (const Node* child = places[i].node->first_child; child; child = child->next) {
      if (!reach(child, i)) break;  // or a ring of siblings would have no end
      for (int tier = 0; tier < kNumTiers; ++tier)
        places[i].children_on[tier] += child->has(0, tier);
    }
    places[i].last = places.size();
  }
}

const Place* Survey::find(NodeId id) const {
  const auto number = numbers.find(id);
  return number == numbers.end() ? nullptr : &places[number->second];
}

namespace {

void check_child(Survey& survey, const Node& node, const Node& child, bool is_below_root) {
  if (child.parent != &node || child.name_space != node.name_space)
    survey.add("node ", child.id, ": parent ", child.parent->id, ", found below ", node.id);
  if (child.num_hits > node.num_hits && !is_below_root)
    survey.add("node ", child.id, ": ", child.num_hits, " hits below ", node.num_hits);
}

void check_node_itself(Survey& survey, const Place& place) {
  const Node& node = *place.node;
  if (!node.is_alive() || node.id >= survey.state.next_id)
    survey.add("node ", node.id, ": alive ", text_of(node.is_alive()), ", next id ",
               survey.state.next_id);
  const bool is_root = survey.is_root(place);
  for (size_t i = place.first; i < place.last; ++i)
    check_child(survey, node, *survey.places[i].node, is_root);
  if (!is_root && survey.num_pages(place) <= 0)
    survey.add("node ", node.id, ": 0 key bytes for ", survey.num_pages(place), " pages");
  for (int tier = 0; tier < kNumTiers; ++tier)
    if (node.children_on[tier] != place.children_on[tier])
      survey.add("node ", node.id, ": counts ", node.children_on[tier], " ", upper_name(tier),
                 " children (I6)");
}

void check_structure(Survey& survey) {
  for (const Node* root : survey.state.roots)
    if (!root->is_root() || root->end)
      survey.add("root ", root->id, " of ", bytes_text(*root->name_space), " is no root");
  for (const Place& place : survey.places) check_node_itself(survey, place);
}

// The digest reads tokens, as many as the nodes say they have.
void check_digest(Survey& survey, TreeState& state) {
  std::vector<const Node*> nodes;
  for (const Place& place : survey.places) {
    const bool is_root = survey.is_root(place);
    if (place.node->parent != survey.places[place.above].node) return;
    if (!is_root && survey.num_pages(place) <= 0) return;
    nodes.push_back(place.node);
  }
  const int64_t kept = state.digest.value(state);
  const int64_t anew = StateDigest::recomputed(state, nodes);
  if (kept != anew)
    survey.add("the digest is 0x", std::hex, kept, ", computed anew 0x", anew, " (I16)");
}

}  // namespace

std::vector<std::string> violations(TreeState& state) {
  Survey survey(state);
  check_tables(survey);
  check_structure(survey);
  check_ownership(survey);
  check_receipts(survey);
  check_plans(survey);
  check_locks(survey);
  check_nodes(survey);
  if (!state.txn) check_queues(survey);  // an open transaction has not told the queues yet
  check_digest(survey, state);
  return std::move(survey.found);
}

const char* upper_name(int tier) { return tier == kDevice ? "DEVICE" : "HOST"; }

const char* text_of(bool value) { return value ? "True" : "False"; }

std::string text_of(const std::vector<int64_t>& values) {
  std::string text;
  for (const int64_t value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
  return "[" + text + "]";
}

std::string bytes_text(const std::string& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    const auto value = static_cast<unsigned char>(byte);
    if (value == '\\' || value == '\'')
      text += {'\\', byte};
    else if (value >= ' ' && value <= '~')
      text += byte;
    else
      text += {'\\', 'x', kDigits[value / 16], kDigits[value % 16]};
  }
  return "b'" + text + "'";
}

}  // namespace hicache::radix
