// Order of eviction: tree/strategy.py. One number per node, and the smallest goes.
#include "hicache/tree_state.h"

namespace hicache::radix {
namespace {

constexpr int64_t kNumProtectingHits = 2;  // a node that was found again after it was made

}  // namespace

int64_t strategy_value(Strategy strategy, const Node& node) {
  switch (strategy) {
    case Strategy::kLru: return 0;
    case Strategy::kLfu: return node.num_hits;
    case Strategy::kSlru: return node.num_hits >= kNumProtectingHits;
    case Strategy::kFifo: return node.made_at;
    case Strategy::kPriority: return node.priority;
  }
  raise(ErrorKind::kLayout, "eviction strategy ", static_cast<int>(strategy), " is unknown");
}

}  // namespace hicache::radix
