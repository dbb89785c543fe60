// Graft of pages that came from storage: host pages of the base below an anchor. As
// tree/insert_host.py.
#include "hicache/tree_ops.h"

namespace hicache::radix {
namespace {

// No id may be in the tree at another place, nor be handed over twice.
void check_ownership(TreeState& state, const Node* anchor, const Walk& known, IdsView row) {
  Ids fresh;
  const int64_t start = anchor->end;
  int64_t end = start;
  for (const Node* node : known.nodes) {
    end = node == known.nodes.back() ? node->start() + known.matched : node->end;
    const IdsView run = row.subspan(node->start() - start, end - node->start());
    const IdsView held = node->parts[0].pages[kHost];
    if (held.empty())
      fresh.insert(fresh.end(), run.begin(), run.end());
    else
      add_foreign(run, held.first(run.size()), fresh);
  }
  const IdsView rest = row.subspan(end - start);
  fresh.insert(fresh.end(), rest.begin(), rest.end());
  state.check_unowned(0, kHost, fresh);
}

}  // namespace

InsertHostResult insert_host(TreeState& state, NodeId anchor_id, Tokens tokens, IdsView pages) {
  Node* anchor = state.get(anchor_id);
  const Tokens key = whole_pages(state, tokens);
  check_ownership(state, anchor, walk(state, anchor, key), pages);

  ++state.clock;
  InsertHostResult result = {nullptr, state.num_pages(key), state.hash_of(key), 0, {}};
  if (!state.can_hang_on_host(anchor)) {
    // Host pages below a parent without would be a hole in every later restore of the path.
    result.released.assign(pages.begin(), pages.end());
    return result;
  }
  Node* last = anchor;
  const int64_t start = anchor->end;
  for (Node* node : walk_and_split(state, anchor, key)) {
    const IdsView run = pages.subspan(node->start() - start, node->num_pages());
    if (node->has(0, kHost)) {
      add_foreign(run, node->parts[0].pages[kHost], result.released);
      if (result.num_present_pages == node->start() - start)
        result.num_present_pages = node->end - start;
    } else {
      state.attach(node, 0, kHost, Ids(run.begin(), run.end()));
      state.refresh(node);
    }
    last = node;
  }
  const IdsView rest = pages.subspan(last->end - start);
  if (!rest.empty()) {
    last = state.add_child(last, key.subspan((last->end - start) * state.page_words));
    state.attach(last, 0, kHost, Ids(rest.begin(), rest.end()));
  }
  state.touch(last);
  state.refresh(last);
  result.node = last;
  return result;
}

}  // namespace hicache::radix
