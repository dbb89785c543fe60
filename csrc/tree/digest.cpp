// The digest of the tree's state, as CPython computes it for the Python tree: tree/digest.py.
#include "hicache/py_hash.h"
#include "hicache/tree_state.h"

namespace hicache::radix {
namespace {

constexpr int64_t kHashMask = (int64_t{1} << 62) - 1;

int64_t num_held(const Ids& pages) {
  return pages.empty() ? -1 : static_cast<int64_t>(pages.size());
}

int64_t hash_of_node(const Node& node, int64_t key_hash, int num_components) {
  TupleHash hash;
  hash.add(node.id).add(node.parent->id).add(node.end).add(key_hash);
  hash.add(node.made_at).add(node.num_hits).add(node.priority);
  for (int idx = 0; idx < num_components; ++idx) {
    const Part& part = node.parts[idx];
    hash.add(num_held(part.pages[kDevice])).add(num_held(part.pages[kHost]));
    hash.add(part.locks[kDevice]).add(part.locks[kHost]).add(part.used_at);
  }
  return hash.value();
}

int64_t hash_of_open(const Receipt& receipt) {
  TupleHash hash;
  hash.add(receipt.id).add(receipt.node).add(receipt.tier);
  for (const int64_t count : receipt.num_pages) hash.add(count);
  return hash.value();
}

int64_t hash_of_open(const Plan& plan) {
  return TupleHash().add(plan.id).add(plan.node).add(plan.target).value();
}

int64_t hash_of_key(const TreeState& state, const Node& node) {
  if (!node.is_root()) return state.hash_of(state.tokens_of(&node));
  return state.token_hash(node.name_space->data(), static_cast<int64_t>(node.name_space->size()));
}

// Python's sum has no bounds; the digest takes its last 62 bits, which are those of this one.
int64_t combine(const TreeState& state, uint64_t sum) {
  TupleHash hash;
  hash.add(state.clock).add(state.next_id).add(state.next_ticket);
  return hash.add(static_cast<int64_t>(sum & kHashMask)).value() & kHashMask;
}

}  // namespace

void StateDigest::changed(Node* node) {
  node->is_changed = true;
  if (node->is_listed) return;
  node->is_listed = true;
  list_.push_back(node);
}

void StateDigest::removed(Node* node) {
  node->is_changed = false;
  sum_ -= node->hash_in_digest;
}

void StateDigest::opened(const Receipt& receipt) { sum_ += hash_of_open(receipt); }
void StateDigest::closed(const Receipt& receipt) { sum_ -= hash_of_open(receipt); }
void StateDigest::opened(const Plan& plan) { sum_ += hash_of_open(plan); }
void StateDigest::closed(const Plan& plan) { sum_ -= hash_of_open(plan); }

int64_t StateDigest::value(const TreeState& state) {
  for (Node* node : list_) {
    node->is_listed = false;
    if (!std::exchange(node->is_changed, false)) continue;
    if (!node->has_key_hash) {
      node->key_hash = hash_of_key(state, *node);
      node->has_key_hash = true;
    }
    const auto hash =
        static_cast<uint64_t>(hash_of_node(*node, node->key_hash, state.num_components()));
    sum_ += hash - node->hash_in_digest;
    node->hash_in_digest = hash;
    ++num_hashed_nodes;
  }
  list_.clear();
  return combine(state, sum_);
}

int64_t StateDigest::recomputed(const TreeState& state, const std::vector<const Node*>& nodes) {
  uint64_t sum = 0;
  for (const Node* node : nodes)
    sum += hash_of_node(*node, hash_of_key(state, *node), state.num_components());
  for (const auto& [id, receipt] : state.receipts) sum += hash_of_open(receipt);
  for (const auto& [id, plan] : state.plans) sum += hash_of_open(plan);
  return combine(state, sum);
}

}  // namespace hicache::radix
