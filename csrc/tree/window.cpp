// The window commit: tree/window.py, which has a picture.
#include <algorithm>

#include "hicache/tree_window.h"

namespace hicache::radix {
namespace {

bool is_above(const Node* anchor, const Node* node) {
  while (node != anchor && !node->is_root()) node = node->parent;
  return node == anchor;
}

void append(Ids& ids, IdsView more) { ids.insert(ids.end(), more.begin(), more.end()); }

}  // namespace

WindowTxn::WindowTxn(TreeState& state, int component_idx, NodeId anchor, NodeId node, Ids pages)
    : state_(state),
      component_idx_(component_idx),
      anchor_(anchor),
      node_(node),
      pages_(std::move(pages)) {}

std::string WindowTxn::text() const {
  return "WindowTxn(" + state_.components[component_idx_]->name + ", " +
         std::to_string(pages_.size()) + " pages, anchor " + std::to_string(anchor_) + ", node " +
         std::to_string(node_) + ")";
}

void WindowTxn::open() {
  HICACHE_CHECK(kTree, !is_closed_, text(), " is closed");
  state_.guard();
  state_.check_unowned(component_idx_, kHost, pages_);
  Node *anchor = state_.get(anchor_), *node = state_.get(node_);
  HICACHE_CHECK(kTree, is_above(anchor, node), "node ", node->id, " is not at or below anchor ",
                anchor->id);
  plan(anchor, node);
  state_.txn = this;
}

void WindowTxn::plan(Node* anchor, Node* node) {
  const auto num_pages = static_cast<int64_t>(pages_.size());
  const int64_t begin = node->end - num_pages;  // where the buffer starts; may be above the anchor
  int64_t first = std::max(begin, anchor->end);
  if (!node->is_root() && !node->has(0, kHost))
    first = node->end;  // a window without base pages under it would be of no use
  append(released_, IdsView(pages_).first(first - begin));
  for (Node* above : suffix_top_down(node, node->end - first)) plan_step(above, first, begin);
}

void WindowTxn::plan_step(Node* node, int64_t first, int64_t begin) {
  const Component& component = *state_.components[component_idx_];
  const int64_t fill_start = std::max(node->start(), first);
  const IdsView run = IdsView(pages_).subspan(fill_start - begin, node->end - fill_start);
  // The node's last piece, cut as the component wants it, takes the run or what it can of it.
  Ids row(static_cast<size_t>(fill_start - node->start()), kHole);
  append(row, run);
  std::vector<int64_t> cuts = {0};
  component.cuts(row, 0, cuts);
  const int64_t cut = *std::max_element(cuts.begin(), cuts.end());
  const IdsView value = component.value(IdsView(row).subspan(cut));
  if (value.empty() || !state_.can_attach(node, component_idx_, kHost))
    return append(released_, run);
  for (const PageId page : run) {
    const bool is_kept = std::find(value.begin(), value.end(), page) != value.end();
    (is_kept ? attached_ : released_).push_back(page);
  }
  Step step = {node, cut, Ids(value.begin(), value.end()), {}};
  if (cut) step.saved.emplace(state_, node);
  steps_.push_back(std::move(step));
}

void WindowTxn::check_open() const {
  HICACHE_CHECK(kTree, state_.txn == this, text(), " is not open");
}

void WindowTxn::stage() {
  check_open();
  HICACHE_CHECK(kTree, !is_staged_, text(), " is staged already");
  is_staged_ = true;
  for (Step& step : steps_) {
    if (step.num_prefix_pages) split(state_, step.node, step.num_prefix_pages);
    ++num_done_;  // from here on the step is undone by a rollback
    state_.attach(step.node, component_idx_, kHost, std::move(step.value));
  }
}

void WindowTxn::commit() {
  check_open();
  if (!is_staged_) stage();
  state_.txn = nullptr;
  is_closed_ = true;
  ++state_.clock;
  if (!steps_.empty()) state_.touch(state_.get(node_));
  for (const Step& step : steps_) {
    state_.refresh(step.node);
    state_.refresh(step.node->parent);
  }
}

void WindowTxn::rollback() {
  while (num_done_ > 0) {
    Step& step = steps_[--num_done_];
    state_.detach(step.node, component_idx_, kHost);
    if (step.num_prefix_pages) unsplit(state_, step.node, *step.saved);
  }
  state_.txn = nullptr;
  is_closed_ = true;
}

}  // namespace hicache::radix
