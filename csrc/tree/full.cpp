// FULL: attention over the whole prefix; the base of the tree. As tree/components/full.py.
#include "hicache/tree_component.h"

namespace hicache::radix {
namespace {

// Satisfied as long as every node so far has its pages.
class FullGate : public Gate {
 public:
  explicit FullGate(int idx) : idx_(idx) {}

  int step(const Node& node) override {
    if (!node.has(idx_, kDevice)) views_ &= node.has(idx_, kHost) ? kViewAny : 0;
    return views_;
  }

 private:
  int idx_;
  int views_ = kViewAll;
};

class Full : public Component {
 public:
  Full() : Component("full", true, 20) {}
  std::unique_ptr<Gate> gate() const override { return std::make_unique<FullGate>(idx); }
  int64_t need(int64_t end) const override { return end; }
};

}  // namespace

std::shared_ptr<Component> make_full() { return std::make_shared<Full>(); }

}  // namespace hicache::radix
