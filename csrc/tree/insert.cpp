// Insert of device pages: tree/insert.py, which has a picture.
#include <algorithm>

#include "hicache/tree_ops.h"

namespace hicache::radix {
namespace {

void add_present(IdsView row, Ids& ids) {
  std::copy_if(row.begin(), row.end(), std::back_inserter(ids), [](PageId id) { return id >= 0; });
}

// No id may be in the tree at another place, nor be handed over twice.
void check_ownership(TreeState& state, const Walk& known, const Rows& rows) {
  Ids fresh, scratch;
  for (const auto& component : state.components) {
    const IdsView row = rows[component->idx];
    fresh.clear();
    int64_t end = 0;
    for (const Node* node : known.nodes) {
      const int64_t start = node->start();
      end = node == known.nodes.back() ? start + known.matched : node->end;
      const IdsView run = row.subspan(start, end - start);
      const Ids& value = node->parts[component->idx].pages[kDevice];
      if (value.empty()) {
        add_present(run, fresh);
      } else {
        const IdsView held = component->spread(value, node->num_pages(), scratch);
        add_foreign(run, held.first(run.size()), fresh);
      }
    }
    add_present(row.subspan(end), fresh);
    state.check_unowned(component->idx, kDevice, fresh);
  }
}

// Pages of the path whose base is on the device: a prefix.
int64_t num_present_pages(const std::vector<Node*>& nodes) {
  int64_t present = 0;
  for (const Node* node : nodes) {
    if (!node->has(0, kDevice)) break;
    present = node->end;
  }
  return present;
}

void sort_unique(std::vector<int64_t>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

// Gives `node` what it lacks of its run of ids, the base first; the rest goes back to the caller.
void overlay(TreeState& state, Node* node, const Rows& rows, IdsByComponent& released) {
  Ids scratch;
  for (const auto& component : state.components) {
    const int idx = component->idx;
    const IdsView run = rows[idx].subspan(node->start(), node->num_pages());
    const IdsView value = component->value(run);
    if (!value.empty() && state.can_attach(node, idx, kDevice))
      state.attach(node, idx, kDevice, Ids(value.begin(), value.end()));
    const Ids& held = node->parts[idx].pages[kDevice];
    if (held.empty())
      add_present(run, released[idx]);
    else
      add_foreign(run, component->spread(held, node->num_pages(), scratch), released[idx]);
  }
}

// Splits `node` where a component that lacks pages there gets them for only a part.
void overlay_existing(TreeState& state, Node* node, const Rows& rows, IdsByComponent& released) {
  std::vector<int64_t> cuts;
  const int64_t start = node->start();
  for (const auto& component : state.components)
    if (!node->has(component->idx, kDevice))
      component->cuts(rows[component->idx].subspan(start, node->num_pages()), start, cuts);
  sort_unique(cuts);
  std::vector<Node*> pieces;
  for (const int64_t cut : cuts) pieces.push_back(split(state, node, cut - node->start()));
  pieces.push_back(node);
  for (Node* piece : pieces) {
    overlay(state, piece, rows, released);
    state.refresh(piece);
  }
}

// Where the new pages [start, end) are divided, so that each piece has a value or none, per
// component, and that what an end there needs begins with a piece.
std::vector<int64_t> borders_of(const TreeState& state, const Rows& rows, int64_t start,
                                int64_t end) {
  std::vector<int64_t> borders = {start, end};
  for (const auto& component : state.components) {
    const IdsView row = rows[component->idx];
    component->cuts(row.subspan(start), start, borders);
    const int64_t begin = end - component->need(end);
    // What is before the window can go alone, and no lock keeps it.
    if (start < begin && row[begin - 1] >= 0) borders.push_back(begin);
  }
  sort_unique(borders);
  return borders;
}

// Nodes for the new pages behind `last`.
Node* append(TreeState& state, Node* last, Tokens key, const Rows& rows, IdsByComponent& released) {
  const int64_t start = last->end, end = state.num_pages(key);
  if (start == end) return last;
  const std::vector<int64_t> borders = borders_of(state, rows, start, end);
  for (size_t i = 1; i < borders.size(); ++i) {
    const int64_t num_pages = borders[i] - borders[i - 1];
    const Tokens tokens =
        key.subspan(borders[i - 1] * state.page_words, num_pages * state.page_words);
    last = state.add_child(last, tokens);
    overlay(state, last, rows, released);
    state.refresh(last);
  }
  return last;
}

}  // namespace

void add_foreign(IdsView row, IdsView held, Ids& ids) {
  if (std::equal(row.begin(), row.end(), held.begin(), held.end())) return;
  for (size_t i = 0; i < row.size(); ++i)
    if (row[i] >= 0 && row[i] != held[i]) ids.push_back(row[i]);
}

InsertResult insert(TreeState& state, Tokens tokens, const Rows& rows,
                    const std::string& name_space, int64_t priority) {
  const Tokens key = whole_pages(state, tokens);
  Node* root = state.find_root(name_space);
  check_ownership(state, root ? walk(state, root, key) : Walk(), rows);

  InsertResult result = {};
  result.is_new_root = !root;
  if (!root) root = state.make_root(name_space);
  ++state.clock;
  result.released.resize(state.components.size());
  const std::vector<Node*> nodes = walk_and_split(state, root, key);
  result.num_present_pages = num_present_pages(nodes);
  for (Node* node : nodes) overlay_existing(state, node, rows, result.released);
  Node* last = append(state, nodes.empty() ? root : nodes.back(), key, rows, result.released);
  state.touch(last);
  for_suffix(last, last->end, [&](Node* used) {
    used->num_hits = std::max<int64_t>(used->num_hits, 1);
    used->priority = std::max(used->priority, priority);
  });
  result.root = root;
  result.node = last;
  result.num_pages = state.num_pages(key);
  result.key_hash = state.hash_of(key);
  for (const IdsView row : rows)
    result.num_given.push_back(
        std::count_if(row.begin(), row.end(), [](PageId id) { return id != kHole; }));
  return result;
}

}  // namespace hicache::radix
