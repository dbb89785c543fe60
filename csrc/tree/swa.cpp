// SWA: sliding-window attention, the last window before an end point. As tree/components/swa.py.
#include "hicache/check.h"
#include "hicache/tree_component.h"

namespace hicache::radix {
namespace {

// Counts the run of pages since the last tombstone, once per view.
class SwaGate : public Gate {
 public:
  // The root counts as a whole window: nothing but a tombstone can make a run too short.
  SwaGate(int idx, int64_t window_pages)
      : idx_(idx), window_pages_(window_pages), run_any_(window_pages), run_device_(window_pages) {}

  int step(const Node& node) override {
    const bool device = node.has(idx_, kDevice);
    run_device_ = device ? run_device_ + node.num_pages() : 0;
    run_any_ = device || node.has(idx_, kHost) ? run_any_ + node.num_pages() : 0;
    return (run_any_ >= window_pages_ ? kViewAny : 0) |
           (run_device_ >= window_pages_ ? kViewDevice : 0);
  }

 private:
  int idx_;
  int64_t window_pages_, run_any_, run_device_;
};

class Swa : public Component {
 public:
  explicit Swa(int64_t window_tokens) : Component("swa", false, 10), window_tokens_(window_tokens) {
    HICACHE_CHECK(kLayout, window_tokens > 0, "window_tokens=", window_tokens,
                  ": a sliding window has at least 1 token");
  }

  void bind(int place, int64_t page_size) override {
    Component::bind(place, page_size);
    window_pages_ = (window_tokens_ - 1) / page_size + 1;
  }

  std::unique_ptr<Gate> gate() const override {
    return std::make_unique<SwaGate>(idx, window_pages_);
  }

  int64_t need(int64_t) const override { return window_pages_; }

 private:
  int64_t window_tokens_;
  int64_t window_pages_ = 0;
};

}  // namespace

std::shared_ptr<Component> make_swa(int64_t window_tokens) {
  return std::make_shared<Swa>(window_tokens);
}

}  // namespace hicache::radix
