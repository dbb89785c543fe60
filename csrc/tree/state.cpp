// TreeState: nodes, pages, order of use.
#include <algorithm>
#include <cstring>

#include "hicache/tree_state.h"
#include "hicache/tree_window.h"

namespace hicache::radix {
namespace {

int64_t num_ids(const Ids& ids) { return static_cast<int64_t>(ids.size()); }
uint64_t id_hash(NodeId id) { return mix64(static_cast<uint64_t>(id), 0); }

}  // namespace

const char* tier_name(int tier) { return tier == kDevice ? "device" : "host"; }

int64_t Plan::num_target_pages(int component_idx) const {
  int64_t num_pages = 0;
  for (const Span& span : spans)
    if (span.component_idx == component_idx) num_pages += static_cast<int64_t>(span.pages.size());
  return num_pages;
}

TreeState::TreeState(Options options)
    : page_size(options.page_size),
      page_words(options.page_size * options.unit_words),
      components(std::move(options.components)),
      strategy(options.strategy),
      host_paths(options.host_paths),
      token_hash(std::move(options.token_hash)),
      page_keys(std::move(options.page_keys)),
      pool(static_cast<int>(components.size())),
      owned(components.size()),
      num_protected(components.size()) {
  HICACHE_CHECK(kLayout, page_size > 0, "page_size=", page_size, ": a page has at least 1 token");
  HICACHE_CHECK(kLayout, !components.empty() && components[0]->is_base,
                "the first component must be the base");
  for (int idx = 0; idx < num_components(); ++idx) {
    components[idx]->bind(idx, page_size);
    for (int tier = 0; tier < kNumTiers; ++tier) queues.emplace_back(*this, idx, tier);
  }
}

Node* TreeState::find(NodeId id) const {
  return nodes.find(id_hash(id), [id](const Node& node) { return node.id == id; });
}

Node* TreeState::get(NodeId id) const {
  Node* node = find(id);
  HICACHE_CHECK(kTree, node, "node ", id, " does not exist (next id ", next_id, ")");
  return node;
}

void TreeState::guard() const {
  HICACHE_CHECK(kTree, !txn, "a window transaction is open: ", txn->text());
}

Node* TreeState::find_root(const std::string& name_space) const {
  for (Node* root : roots)
    if (*root->name_space == name_space) return root;
  return nullptr;
}

uint64_t TreeState::child_hash(const Node* parent, Tokens first_page) const {
  return mix64(page_hash(first_page), static_cast<uint64_t>(parent->id));
}

Node* TreeState::find_child(Node* parent, Tokens first_page) const {
  const auto is_it = [&](const Node& child) {
    return child.parent == parent &&
           !std::memcmp(child.tokens.get(), first_page.data(), first_page.size_bytes());
  };
  Node* only = parent->first_child;
  if (only == parent->last_child) return only && is_it(*only) ? only : nullptr;
  return children.find(child_hash(parent, first_page), is_it);
}

Tokens TreeState::tokens_of(const Node* node) const {
  return {node->tokens.get(), static_cast<size_t>(node->num_pages() * page_words)};
}

int64_t TreeState::hash_of(Tokens tokens) const {
  return token_hash(tokens.data(), static_cast<int64_t>(tokens.size_bytes()));
}

Node* TreeState::make(Node* parent, Tokens tokens, int64_t end) {
  auto copy = std::make_unique_for_overwrite<uint32_t[]>(tokens.size());
  std::copy(tokens.begin(), tokens.end(), copy.get());
  nodes.reserve_one();
  children.reserve_one();
  Node* node = pool.take();
  node->id = next_id++;
  node->parent = parent ? parent : node;
  node->name_space = parent ? parent->name_space : nullptr;
  node->tokens = std::move(copy);
  node->end = end;
  node->made_at = clock;
  nodes.insert(id_hash(node->id), node);
  digest.changed(node);
  return node;
}

Node* TreeState::make_root(const std::string& name_space) {
  namespaces.push_back(name_space);
  Node* root = make(nullptr, {}, 0);
  root->name_space = &namespaces.back();
  roots.push_back(root);
  return root;
}

Node* TreeState::add_child(Node* parent, Tokens tokens) {
  Node* node = make(parent, tokens, parent->end + num_pages(tokens));
  link_last(parent, node);
  return node;
}

void TreeState::link_last(Node* parent, Node* node) {
  node->first_page_hash = child_hash(parent, tokens_of(node).first(page_words));
  children.insert(node->first_page_hash, node);
  node->previous = parent->last_child;
  node->next = nullptr;
  (node->previous ? node->previous->next : parent->first_child) = node;
  parent->last_child = node;
}

void TreeState::put_in_place(const Node* old, Node* node) {
  children.replace(old->first_page_hash, old, node);
  node->first_page_hash = old->first_page_hash;
  node->previous = old->previous;
  node->next = old->next;
  (node->previous ? node->previous->next : old->parent->first_child) = node;
  (node->next ? node->next->previous : old->parent->last_child) = node;
}

void TreeState::remove(Node* node) {
  Node* parent = node->parent;
  children.erase(node->first_page_hash, node);
  (node->previous ? node->previous->next : parent->first_child) = node->next;
  (node->next ? node->next->previous : parent->last_child) = node->previous;
  for (EvictQueue& queue : queues) queue.forget(node);
  forget(node);
}

void TreeState::forget(Node* node) {
  nodes.erase(id_hash(node->id), node);
  digest.removed(node);
  pool.give_back(node);
}

void TreeState::attach(Node* node, int component_idx, int tier, Ids pages) {
  owned[component_idx][tier].add(pages);
  Part& part = node->parts[component_idx];
  if (part.locks[tier]) num_protected[component_idx][tier] += num_ids(pages);
  part.pages[tier] = std::move(pages);
  digest.changed(node);
  if (!components[component_idx]->is_base) return;
  ++node->parent->children_on[tier];
  if (!listener) return;
  nodes_with_keys(*this, node);
  listener->stored(*node, tier);
}

Ids TreeState::detach(Node* node, int component_idx, int tier) {
  Part& part = node->parts[component_idx];
  Ids pages = std::exchange(part.pages[tier], {});
  if (pages.empty()) return pages;
  // Only of a window that is taken back: eviction skips what is locked.
  if (part.locks[tier]) num_protected[component_idx][tier] -= num_ids(pages);
  owned[component_idx][tier].remove(pages);
  digest.changed(node);
  if (!components[component_idx]->is_base) return pages;
  --node->parent->children_on[tier];
  if (listener) listener->removed(*node, tier);
  return pages;
}

bool TreeState::can_attach(const Node* node, int component_idx, int tier) const {
  if (node->has(component_idx, tier)) return false;
  const bool is_base = components[component_idx]->is_base;
  if (is_base && tier == kHost) return can_hang_on_host(node->parent);
  const Node* above = is_base ? node->parent : node;
  return above->is_root() || above->has(0, tier);
}

bool TreeState::can_hang_on_host(const Node* parent) const {
  return parent->is_root() || host_paths == HostPaths::kGaps || parent->has(0, kHost);
}

void TreeState::check_unowned(int component_idx, int tier, IdsView pages) {
  Ledger& ledger = owned[component_idx][tier];
  size_t num_new = 0;
  while (num_new < pages.size() && ledger.add(pages[num_new])) ++num_new;
  ledger.remove(pages.first(num_new));
  if (num_new == pages.size()) return;
  const char* why = ledger.contains(pages[num_new]) ? "is in the tree already" : "is named twice";
  raise(ErrorKind::kTree, components[component_idx]->name, " ", tier_name(tier), " page ",
        pages[num_new], " ", why, " (new page ", num_new, ")");
}

void TreeState::lock(Node* node, int component_idx, int tier) {
  Part& part = node->parts[component_idx];
  if (++part.locks[tier] == 1) num_protected[component_idx][tier] += num_ids(part.pages[tier]);
}

void TreeState::unlock(Node* node, int component_idx, int tier) {
  Part& part = node->parts[component_idx];
  if (--part.locks[tier] == 0) num_protected[component_idx][tier] -= num_ids(part.pages[tier]);
}

std::vector<int64_t> TreeState::reach(const Node* node) const {
  std::vector<int64_t> reach;
  for (const auto& component : components)
    reach.push_back(covered_pages(*node, component->need(node->end)));
  return reach;
}

void TreeState::touch(Node* node) {
  for (const auto& component : components) {
    for_suffix(node, component->need(node->end), [&](Node* used) {
      used->parts[component->idx].used_at = clock;
      digest.changed(used);
    });
  }
}

void TreeState::refresh(Node* node) {
  if (node->is_root()) return;
  for (EvictQueue& queue : queues) queue.refresh(node);
}

}  // namespace hicache::radix
