// Backup and load-back, in two steps around a copy that takes time: tree/transfer.py.
#include <algorithm>

#include "hicache/tree_ops.h"

namespace hicache::radix {
namespace {

Span span_of(const Node* node, int component_idx, int tier) {
  const Ids& pages = node->parts[component_idx].pages[tier];
  return {node->id, component_idx, node->num_pages(), pages};
}

const Plan* open_plan(TreeState& state, Node* node, int target, std::vector<Span> spans,
                      std::vector<int64_t> receipts) {
  const int64_t id = state.next_ticket++;
  const auto place =
      state.plans.emplace(id, Plan{id, node->id, target, std::move(spans), std::move(receipts)});
  state.digest.opened(place.first->second);
  return &place.first->second;
}

void close_plan(TreeState& state, const Plan& plan) {
  const std::vector<int64_t> receipts = plan.receipts;
  state.digest.closed(plan);
  state.plans.erase(plan.id);
  for (const int64_t receipt : receipts) release(state, receipt);
}

const Plan& open_plan_of(const TreeState& state, int64_t id) {
  const auto found = state.plans.find(id);
  HICACHE_CHECK(kTree, found != state.plans.end(), "plan ", id, " is not open");
  return found->second;
}

struct Piece {
  Node* node;
  Ids pages;  // empty: none
};

// The fragments of what was one node, root-first: a base needs its parent's.
std::vector<Piece> pieces_of(const TreeState& state, const Span& span, IdsView pages) {
  const Component& component = *state.components[span.component_idx];
  std::vector<Piece> pieces;
  Ids rest(pages.begin(), pages.end());
  Node* node = state.get(span.node);
  for (int64_t num_rest = span.num_pages; !rest.empty(); node = node->parent) {
    num_rest -= node->num_pages();  // now: those above the node
    Ids above = num_rest ? component.divide(rest, num_rest) : Ids();
    if (!rest.empty()) pieces.push_back({node, std::move(rest)});
    rest = std::move(above);
  }
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

void attach_span(TreeState& state, int target, const Span& span, IdsView pages, Ids& unused) {
  for (Piece& piece : pieces_of(state, span, pages)) {
    if (state.can_attach(piece.node, span.component_idx, target)) {
      state.attach(piece.node, span.component_idx, target, std::move(piece.pages));
      state.refresh(piece.node);
    } else {
      unused.insert(unused.end(), piece.pages.begin(), piece.pages.end());
    }
  }
}

// The nodes that a backup is to look at, root-first; throws if they would leave a gap.
std::vector<Node*> to_back_up(const TreeState& state, Node* node, int64_t num_pages,
                              int64_t min_hits) {
  HICACHE_CHECK(kTree, num_pages >= 0, "backup of the last ", num_pages, " pages of node ",
                node->id);
  std::vector<Node*> nodes = suffix_top_down(node, num_pages);
  HICACHE_CHECK(kTree, nodes.empty() || state.can_hang_on_host(nodes[0]->parent),
                "the host has no pages of node ", nodes[0]->parent->id,
                ", so none below it may go there");
  // Hits grow upwards: what has enough of them begins at the root.
  std::erase_if(nodes, [&](const Node* above) { return above->num_hits < min_hits; });
  return nodes;
}

// Throws unless a match may end at `node`: then the two tiers have all that it needs.
void check_restorable(const TreeState& state, Node* node, const std::vector<Node*>& path) {
  for (const auto& component : state.components) {
    const std::unique_ptr<Gate> gate = component->gate();
    int views = kViewAll;
    for (const Node* above : path) views = gate->step(*above);
    if (views & kViewAny) continue;
    const Node* lowest = nullptr;
    for_suffix(node, component->need(node->end), [&](const Node* part) {
      if (!lowest && !component->can_end(*part)) lowest = part;
    });
    if (!lowest) lowest = node;
    raise(ErrorKind::kTree, "node ", node->id, " cannot be loaded back: its ", component->name,
          " pages at tokens ", lowest->start() * state.page_size, "..",
          lowest->end * state.page_size, " are on no tier");
  }
}

// Splits the host pages that begin before what `node` needs, so that no more is loaded.
void cut_windows(TreeState& state, Node* node) {
  for (const auto& component : state.components) {
    const int64_t num_pages = component->need(node->end);
    Node* first = nullptr;
    for_suffix(node, num_pages, [&](Node* part) { first = part; });
    if (!first) continue;
    const int64_t cut = node->end - num_pages - first->start();
    if (cut <= 0 || first->has(component->idx, kDevice) || !first->has(component->idx, kHost))
      continue;
    Ids value = first->parts[component->idx].pages[kHost];
    if (!component->divide(value, cut).empty()) state.refresh(split(state, first, cut));
  }
}

}  // namespace

const Plan* begin_backup(TreeState& state, NodeId id, int64_t num_pages, int64_t min_hits) {
  Node* node = state.get(id);
  std::vector<Span> spans;
  std::vector<int64_t> pinned(state.components.size(), 0);  // pages back from the end of node
  for (const Node* above : to_back_up(state, node, num_pages, min_hits)) {
    for (int idx = 0; idx < state.num_components(); ++idx) {
      if (!above->has(idx, kDevice) || above->has(idx, kHost)) continue;
      spans.push_back(span_of(above, idx, kDevice));
      pinned[idx] = std::max(pinned[idx], node->end - above->start());
    }
  }
  if (spans.empty()) return nullptr;
  pinned[0] = node->end;
  const int64_t receipt = acquire(state, node, kDevice, std::move(pinned)).id;
  return open_plan(state, node, kHost, std::move(spans), {receipt});
}

const Plan* begin_load_back(TreeState& state, NodeId id) {
  Node* node = state.get(id);
  check_restorable(state, node, suffix_top_down(node, node->end));
  cut_windows(state, node);
  const std::vector<int64_t> reach = state.reach(node);
  std::vector<Span> spans;
  for (const Node* above : suffix_top_down(node, node->end)) {
    for (int idx = 0; idx < state.num_components(); ++idx) {
      const bool is_needed = above->end > node->end - reach[idx];
      if (is_needed && !above->has(idx, kDevice) && above->has(idx, kHost))
        spans.push_back(span_of(above, idx, kHost));
    }
  }
  if (spans.empty()) return nullptr;
  const int64_t on_device = acquire(state, node, kDevice, reach).id;
  const int64_t on_host = acquire(state, node, kHost, reach).id;
  return open_plan(state, node, kDevice, std::move(spans), {on_device, on_host});
}

IdsByComponent commit(TreeState& state, int64_t id, const Rows& rows) {
  const Plan& plan = open_plan_of(state, id);
  for (int idx = 0; idx < state.num_components(); ++idx)
    state.check_unowned(idx, plan.target, rows[idx]);
  IdsByComponent unused(state.components.size());
  std::vector<size_t> taken(state.components.size(), 0);
  for (const Span& span : plan.spans) {
    const int idx = span.component_idx;
    const IdsView pages = rows[idx].subspan(taken[idx], span.pages.size());
    taken[idx] += pages.size();
    attach_span(state, plan.target, span, pages, unused[idx]);
  }
  close_plan(state, plan);
  return unused;
}

void abort(TreeState& state, int64_t id) { close_plan(state, open_plan_of(state, id)); }

}  // namespace hicache::radix
