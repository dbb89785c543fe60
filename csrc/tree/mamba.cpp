// MAMBA: a sequence can go on only where a state was kept, one page at a node's right end. As
// tree/components/mamba.py.
#include "hicache/tree_component.h"

namespace hicache::radix {
namespace {

// Satisfied at a node that has a state, whatever lies before it.
class MambaGate : public Gate {
 public:
  explicit MambaGate(int idx) : idx_(idx) {}

  int step(const Node& node) override {
    if (node.has(idx_, kDevice)) return kViewAll;
    return node.has(idx_, kHost) ? kViewAny : 0;
  }

 private:
  int idx_;
};

class Mamba : public Component {
 public:
  Mamba() : Component("mamba", false, 5) {}
  std::unique_ptr<Gate> gate() const override { return std::make_unique<MambaGate>(idx); }
  int64_t need(int64_t) const override { return 1; }

  void cuts(IdsView row, int64_t origin, std::vector<int64_t>& cuts) const override {
    for (size_t i = 1; i < row.size(); ++i)
      if (row[i - 1] >= 0) cuts.push_back(origin + static_cast<int64_t>(i));
  }

  IdsView value(IdsView row) const override {
    return !row.empty() && row.back() >= 0 ? row.last(1) : IdsView();
  }

  Ids divide(Ids&, int64_t) const override { return {}; }

  IdsView spread(IdsView value, int64_t num_pages, Ids& scratch) const override {
    scratch.assign(static_cast<size_t>(num_pages), kHole);
    scratch.back() = value[0];
    return scratch;
  }

  std::string misfit(IdsView value, int64_t, int) const override {
    if (value.size() <= 1) return {};
    return name + ": " + std::to_string(value.size()) + " states, a node has one or none (I11)";
  }
};

}  // namespace

std::shared_ptr<Component> make_mamba() { return std::make_shared<Mamba>(); }

}  // namespace hicache::radix
