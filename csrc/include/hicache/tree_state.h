// The native tree's data and the few primitives that change it: tree/state.py. attach() and
// detach() are the only two that move a page into or out of the tree: they are its ledger.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <utility>

#include "hicache/check.h"
#include "hicache/tree_component.h"
#include "hicache/tree_table.h"

namespace hicache::radix {

struct TreeState;
class WindowTxn;

struct Receipt {
  int64_t id;
  NodeId node;
  int tier;
  std::vector<int64_t> num_pages;  // by component: pages locked, counted back from the node's end
};

// One node's pages of one component, to be copied to another tier.
struct Span {
  NodeId node;
  int component_idx;
  int64_t num_pages;  // of the node when the plan was made: it may be split before the commit
  Ids pages;          // where to copy from
};

struct Plan {
  int64_t id;
  NodeId node;
  int target;
  std::vector<Span> spans;
  std::vector<int64_t> receipts;  // ids of its pins

  int64_t num_target_pages(int component_idx) const;
};

// 62 bits that tell byte strings apart: for the log and the digest.
using TokenHash = std::function<int64_t(const void* data, int64_t num_bytes)>;
// Writes the keys of whole pages that come after the key `previous`; that is empty for the first
// page of a namespace.
using PageKeys = std::function<void(Tokens tokens, const std::string& name_space,
                                    std::span<const uint8_t> previous, uint8_t* keys)>;

// The digest of tree/digest.py: the same value as the Python tree has for the same state.
class StateDigest {
 public:
  void changed(Node* node);
  void removed(Node* node);
  void opened(const Receipt& receipt);
  void closed(const Receipt& receipt);
  void opened(const Plan& plan);
  void closed(const Plan& plan);
  int64_t value(const TreeState& state);
  // What value() must be, from `nodes`, all of the tree, and nothing that was kept.
  static int64_t recomputed(const TreeState& state, const std::vector<const Node*>& nodes);

  int64_t num_hashed_nodes = 0;  // work done so far

 private:
  std::vector<Node*> list_;  // slots; those whose node is_changed are to be hashed anew
  uint64_t sum_ = 0;
};

enum class Strategy { kLru, kLfu, kSlru, kFifo, kPriority };
int64_t strategy_value(Strategy strategy, const Node& node);

// What the host may have of a path: a node only below one that it has, or any.
enum class HostPaths { kWhole, kGaps };

// Candidates of one component on one tier, lazy: tree/queue.py.
class EvictQueue {
 public:
  // Whether an end point has needed the pages, the strategy's number, last use, age, depth: the
  // smallest goes first; ties by node id.
  using Order = std::array<int64_t, 5>;
  struct Entry {
    Order order;
    NodeId id;
    Node* node;
    bool is_alive() const { return node->id == id; }
  };

  EvictQueue(const TreeState& state, int component_idx, int tier)
      : state_(&state), component_idx_(component_idx), tier_(tier) {}
  void refresh(Node* node);
  void forget(Node* node);
  Node* pop();  // nullptr: there is none
  // The next victims, until they have `num_pages` pages; they stay queued.
  std::vector<Node*> coldest(int64_t num_pages);
  const std::vector<Entry>& entries() const { return heap_; }
  int64_t num_live() const { return num_live_; }

 private:
  Order order_of(const Node& node) const;

  const TreeState* state_;
  int component_idx_, tier_;
  std::vector<Entry> heap_;
  int64_t num_live_ = 0;
};

// Hears what becomes of base pages: tree/events.py. The page keys of the node are known.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void stored(const Node& node, int tier) = 0;
  virtual void removed(const Node& node, int tier) = 0;
};

struct TreeState {
  struct Options {
    int64_t page_size, unit_words;                       // u32 words of one position of a key
    std::vector<std::shared_ptr<Component>> components;  // the first is the base
    Strategy strategy;
    HostPaths host_paths;
    TokenHash token_hash;
    PageKeys page_keys;
  };
  explicit TreeState(Options options);
  TreeState(const TreeState&) = delete;
  TreeState& operator=(const TreeState&) = delete;

  int num_components() const { return static_cast<int>(components.size()); }
  Node* get(NodeId id) const;  // throws where there is none (any more)
  Node* find(NodeId id) const;
  void guard() const;  // throws while a window is open
  Node* find_root(const std::string& name_space) const;
  Node* find_child(Node* parent, Tokens first_page) const;

  Node* make_root(const std::string& name_space);
  Node* add_child(Node* parent, Tokens tokens);
  void remove(Node* node);

  // The node takes over the pages, one per page of it; it must have none there.
  void attach(Node* node, int component_idx, int tier, Ids pages);
  Ids detach(Node* node, int component_idx, int tier);
  bool can_attach(const Node* node, int component_idx, int tier) const;
  // Whether a node below `parent` may have base pages on the host.
  bool can_hang_on_host(const Node* parent) const;
  // Throws if the tree has one of `pages` already, or if one is named twice.
  void check_unowned(int component_idx, int tier, IdsView pages);

  // Count one lock more, or one less.
  void lock(Node* node, int component_idx, int tier);
  void unlock(Node* node, int component_idx, int tier);

  // By component, the pages back from the end of `node` of the whole nodes that it needs.
  std::vector<int64_t> reach(const Node* node) const;
  void touch(Node* node);
  void refresh(Node* node);

  Tokens tokens_of(const Node* node) const;
  int64_t hash_of(Tokens tokens) const;
  int64_t num_pages(Tokens key) const { return static_cast<int64_t>(key.size()) / page_words; }

  const int64_t page_size, page_words;
  const std::vector<std::shared_ptr<Component>> components;
  const Strategy strategy;
  const HostPaths host_paths;
  const TokenHash token_hash;
  const PageKeys page_keys;
  NodePool pool;
  NodeTable nodes, children;           // by id; by parent and first page
  std::vector<Node*> roots;            // in the order in which they came
  std::deque<std::string> namespaces;  // of the roots
  int64_t next_id = 0;
  int64_t clock = 0;
  StateDigest digest;
  std::vector<std::array<Ledger, kNumTiers>> owned;
  // Pages at nodes where the component is locked.
  std::vector<std::array<int64_t, kNumTiers>> num_protected;
  std::vector<EvictQueue> queues;  // kNumTiers per component
  std::map<int64_t, Receipt> receipts;
  std::map<int64_t, Plan> plans;
  int64_t next_ticket = 0;  // ids of receipts and plans
  const WindowTxn* txn = nullptr;
  std::unique_ptr<Listener> listener;  // nullptr: nobody listens

  EvictQueue& queue(int component_idx, int tier) {
    return queues[component_idx * kNumTiers + tier];
  }

  // For split and its undoing alone: what the siblings and the tables know.
  void forget(Node* node);
  void link_last(Node* parent, Node* node);
  void put_in_place(const Node* old, Node* node);
  Node* make(Node* parent, Tokens tokens, int64_t end);
  uint64_t child_hash(const Node* parent, Tokens first_page) const;
};

bool is_locked(const TreeState& state, const Node& node, int component_idx, int tier);
bool can_drop_base(const TreeState& state, const Node& node, int tier);
bool can_drop(const TreeState& state, const Node& node, int component_idx, int tier);

const char* tier_name(int tier);  // in lower case

}  // namespace hicache::radix
