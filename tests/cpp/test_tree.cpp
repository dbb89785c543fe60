// The native tree under random calls, for the sanitizers: what it does is checked against the
// Python tree in tests/test_tree_native.py. Here: that its tables stay right, that hashes are
// CPython's, and that pages that went in come out once.
#include <algorithm>
#include <numeric>
#include <random>

#include "copy_expect.h"
#include "hicache/py_hash.h"
#include "hicache/tree_check.h"
#include "hicache/tree_window.h"

using namespace hicache;
using namespace hicache::radix;

namespace {

constexpr int64_t kPageSize = 2, kMaxPages = 6;

int64_t sum_of(const void* data, int64_t num_bytes) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  return std::accumulate(bytes, bytes + num_bytes, int64_t{num_bytes});
}

void fake_keys(Tokens tokens, const std::string&, std::span<const uint8_t>, uint8_t* keys) {
  std::fill_n(keys, tokens.size() / kPageSize * kPageKeyBytes, static_cast<uint8_t>(tokens[0]));
}

struct Run {
  explicit Run(uint32_t seed)
      : seed(seed),
        random(seed),
        state({kPageSize,
               1,
               {make_full(), make_swa(2 * kPageSize), make_mamba()},
               static_cast<Strategy>(seed % 5),
               seed % 3 ? HostPaths::kWhole : HostPaths::kGaps,
               sum_of,
               fake_keys}) {}

  int64_t draw(int64_t end) { return static_cast<int64_t>(random() % static_cast<uint64_t>(end)); }

  std::vector<uint32_t> prompt() {
    std::vector<uint32_t> tokens(draw(kMaxPages + 1) * kPageSize);
    for (uint32_t& token : tokens) token = static_cast<uint32_t>(draw(2));
    return tokens;
  }

  // One new id per page, some with holes.
  IdsByComponent fresh(int64_t num_pages) {
    IdsByComponent rows(state.components.size(), Ids(num_pages));
    for (size_t idx = 0; idx < rows.size(); ++idx)
      for (PageId& page : rows[idx]) page = idx && draw(3) == 0 ? kHole : next_page++;
    return rows;
  }

  NodeId match(const std::vector<uint32_t>& tokens) {
    return match_prefix(state, tokens, "").best->id;
  }

  void insert_some() {
    const std::vector<uint32_t> tokens = prompt();
    const IdsByComponent ids = fresh(static_cast<int64_t>(tokens.size()) / kPageSize);
    insert(state, tokens, Rows(ids.begin(), ids.end()), "", draw(3));
  }

  void graft_some() {
    const std::vector<uint32_t> tokens = prompt();
    const auto num_pages = static_cast<int64_t>(tokens.size()) / kPageSize;
    const auto done = insert_host(state, match({}), tokens, fresh(num_pages)[0]);
    if (!done.node) return;
    WindowTxn txn(state, 1, 0, done.node->id, fresh(draw(4))[0]);
    txn.open();
    if (draw(2)) txn.stage();
    draw(2) ? txn.commit() : txn.rollback();
  }

  void copy_some() {
    const NodeId node = match(prompt());
    const Plan* plan =
        draw(2) ? begin_backup(state, node, kMaxPages, 0) : begin_load_back(state, node);
    if (!plan) return;
    const int64_t id = plan->id;
    match(prompt());  // may split what is to be copied
    if (draw(3) == 0) return abort(state, id);
    IdsByComponent ids(state.components.size());
    for (int idx = 0; idx < state.num_components(); ++idx)
      for (int64_t i = plan->num_target_pages(idx); i > 0; --i) ids[idx].push_back(next_page++);
    commit(state, id, Rows(ids.begin(), ids.end()));
  }

  void step() {
    const int tier = static_cast<int>(draw(kNumTiers));
    switch (draw(9)) {
      case 0:
      case 1:
      case 2: return insert_some();
      case 3: return graft_some();
      case 4: return copy_some();
      case 5: evict(state, tier, {draw(4), draw(4), draw(2)}); return;
      case 6: nodes_with_keys(state, state.get(match(prompt()))); return;
      case 7: drop_duplicates(state, {draw(3), draw(3), draw(3)}); return;
      default: {
        Node* node = state.get(match(prompt()));
        const int64_t receipt = acquire(state, node, tier, state.reach(node)).id;
        evict(state, tier, {draw(9), draw(9), draw(9)});
        release(state, receipt);
      }
    }
  }

  void check() {
    for (const std::string& text : violations(state))
      testing::expect(false, text.c_str(), static_cast<int>(seed));
    state.digest.value(state);
  }

  void check_empty() {
    for (int tier = 0; tier < kNumTiers; ++tier) clear(state, tier);
    check();
    testing::expect(state.nodes.size() == state.roots.size(), "nodes are left",
                    static_cast<int>(seed));
    for (const auto& by_tier : state.owned)
      for (const Ledger& ledger : by_tier)
        testing::expect(ledger.size() == 0 && ledger.sorted().empty(), "pages are left",
                        static_cast<int>(seed));
  }

  uint32_t seed;
  std::mt19937 random;
  TreeState state;
  PageId next_page = 0;
};

void check_hashes() {
  testing::expect(py_hash(-1) == -2 && py_hash((int64_t{1} << 61) - 1) == 0, "hash of ints", 0);
  // hash((1, 2, 3)) and hash(()) of CPython 3.8 to 3.13
  testing::expect(TupleHash().add(1).add(2).add(3).value() == 529344067295497451,
                  "hash of (1, 2, 3)", 0);
  testing::expect(TupleHash().value() == 5740354900026072187, "hash of ()", 0);
}

}  // namespace

int main() {
  check_hashes();
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Run run(seed);
    for (int i = 0; i < 150; ++i) {
      run.step();
      if (i % 10 == 0) run.check();
    }
    run.check_empty();
  }
  return testing::num_failed != 0;
}
