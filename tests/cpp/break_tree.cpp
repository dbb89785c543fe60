// Breaks a native tree from inside, for tests/test_tree_check.py: a library, called through ctypes.
// The tree has [ 1 2 ] -- [ 3 4 ] and [ 9 ]: upper, lower and leaf.
#include <cstring>
#include <map>
#include <string>

#include "hicache/tree_state.h"

using namespace hicache::radix;

namespace {

struct Laden {
  TreeState& state;
  Node *upper, *lower, *leaf;
};

// One node's part of component `idx`.
Part& part(Node* node, int idx) { return node->parts[idx]; }

std::vector<EvictQueue::Entry>& entries(Laden& tree, int idx) {
  return const_cast<std::vector<EvictQueue::Entry>&>(tree.state.queue(idx, kDevice).entries());
}

void unqueue(Laden& tree, int idx) {
  std::erase_if(entries(tree, idx), [&](const auto& entry) { return entry.node == tree.leaf; });
  part(tree.leaf, idx).queued[kDevice] = false;
}

void swap_siblings(Laden& tree) {
  Node* root = tree.upper->parent;
  std::swap(root->first_child->previous, root->last_child->previous);
}

void move_host_base_down(Laden& tree) {
  part(tree.lower, 0).pages[kHost] = {80, 81};
  part(tree.upper, 0).pages[kHost].clear();
}

void copy_first_page(Laden& tree) {
  std::memcpy(tree.leaf->tokens.get(), tree.upper->tokens.get(), 16);
}

void add_root(Laden& tree) {
  tree.state.make_root("x");
  tree.state.namespaces.back() = "";
}

using Breaks = std::map<std::string, void (*)(Laden&)>;

const Breaks kNodeBreaks = {
    {"no base above", [](Laden& t) { part(t.upper, 0).pages[kDevice].clear(); }},
    {"no host base above", move_host_base_down},
    {"no base", [](Laden& t) { part(t.lower, 0).pages[kDevice].clear(); }},
    {"window alone", [](Laden& t) { part(t.lower, 1).pages[kHost] = {80, 81}; }},
    {"lock too many", [](Laden& t) { ++part(t.upper, 0).locks[kDevice]; }},
    {"lock too few", [](Laden& t) { --part(t.upper, 1).locks[kDevice]; }},
    {"negative", [](Laden& t) { part(t.lower, 2).locks[kHost] = -1; }},
    {"no lock of the base", [](Laden& t) { ++part(t.lower, 1).locks[kHost]; }},
};

const Breaks kBookBreaks = {
    {"base not queued", [](Laden& t) { unqueue(t, 0); }},
    {"base queued twice", [](Laden& t) { entries(t, 0).push_back(entries(t, 0)[0]); }},
    {"base flag", [](Laden& t) { part(t.leaf, 0).queued[kDevice] = false; }},
    {"children", [](Laden& t) { t.upper->children_on[kHost] = 1; }},
    {"window not queued", [](Laden& t) { unqueue(t, 1); }},
    {"state queued twice", [](Laden& t) { entries(t, 2).push_back(entries(t, 2)[0]); }},
    {"protected", [](Laden& t) { t.state.num_protected[1][kHost] = 3; }},
    {"pin", [](Laden& t) { t.state.receipts.erase(t.state.plans.begin()->second.receipts[0]); }},
    {"plan's node", [](Laden& t) { t.state.plans.begin()->second.node = 1000000; }},
    {"short window", [](Laden& t) { part(t.lower, 1).pages[kDevice].pop_back(); }},
    {"long base", [](Laden& t) { part(t.lower, 0).pages[kDevice].push_back(4); }},
    {"two states", [](Laden& t) { part(t.lower, 2).pages[kDevice] = {2, 3}; }},
    {"inside a node", [](Laden& t) { t.state.receipts.begin()->second.num_pages = {1, 0, 0}; }},
    {"dead node", [](Laden& t) { t.state.receipts.begin()->second.node = 1000000; }},
    {"ledger", [](Laden& t) { t.state.owned[0][kDevice].add(999); }},
    {"ledger lacks", [](Laden& t) { t.state.owned[1][kDevice].remove(Ids{2}); }},
    {"twice", [](Laden& t) { part(t.lower, 0).pages[kDevice] = {2, 2}; }},
    {"not told", [](Laden& t) { part(t.lower, 0).used_at = 1000000; }},
    {"clock", [](Laden& t) { t.upper->made_at = 77; }},
    {"tokens", [](Laden& t) { t.lower->tokens[7] = 1; }},
    {"next id", [](Laden& t) { t.state.next_id = 0; }},
    {"hits", [](Laden& t) { t.lower->num_hits = 1000000; }},
};

// What a copy of the tree does not have.
const Breaks kOwnBreaks = {
    {"root", [](Laden& t) { t.upper->parent->end = 1; }},
    {"alive", [](Laden& t) { t.leaf->id = -1; }},
    {"parent", [](Laden& t) { t.lower->parent = t.leaf; }},
    {"namespace", [](Laden& t) { t.lower->name_space = new std::string("other"); }},
    {"empty", [](Laden& t) { t.leaf->end = 0; }},
    {"first page", [](Laden& t) { t.lower->tokens[0] = 1; }},
    {"first page hash", [](Laden& t) { ++t.lower->first_page_hash; }},
    {"two of a first page", copy_first_page},
    {"sibling", swap_siblings},
    {"last child", [](Laden& t) { t.upper->last_child = nullptr; }},
    {"ring", [](Laden& t) { t.leaf->next = t.upper; }},
    {"unknown id", [](Laden& t) { t.state.nodes.erase(mix64(t.lower->id, 0), t.lower); }},
    {"unreachable", [](Laden& t) { t.upper->first_child = t.upper->last_child = nullptr; }},
    {"two roots of a namespace", add_root},
    {"ledger's count", [](Laden& t) { t.state.owned[0][kHost].remove(Ids{999}); }},
};

}  // namespace

extern "C" __attribute__((visibility("default"))) int tree_break(TreeState* state, const char* name,
                                                                 int64_t upper, int64_t lower,
                                                                 int64_t leaf) {
  Laden tree = {*state, state->get(upper), state->get(lower), state->get(leaf)};
  for (const Breaks* breaks : {&kNodeBreaks, &kBookBreaks, &kOwnBreaks}) {
    const auto item = breaks->find(name);
    if (item == breaks->end()) continue;
    item->second(tree);
    return 0;
  }
  return 1;
}
