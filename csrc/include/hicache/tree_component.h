// What the native tree asks of a component: the hooks of tree/components/base.py. A kind is one
// file in csrc/tree; the tree never names one.
#pragma once

#include <memory>
#include <string>

#include "hicache/tree_node.h"

namespace hicache::radix {

inline constexpr int kViewAny = 1;     // pages on the device or on the host count
inline constexpr int kViewDevice = 2;  // only pages on the device count
inline constexpr int kViewAll = kViewAny | kViewDevice;

// Walks down one path with a match; stateful, one per walk.
class Gate {
 public:
  virtual ~Gate() = default;
  // The views in which a match may end at the end of `node`: a mask of kView*.
  virtual int step(const Node& node) = 0;
};

class Component {
 public:
  Component(std::string name, bool is_base, int rank)
      : name(std::move(name)), is_base(is_base), rank(rank) {}
  virtual ~Component() = default;

  const std::string name;
  const bool is_base;
  const int rank;  // evicting a component takes those of lower rank at the node with it
  int idx = -1;    // its place in the tree

  // Called once by the tree that takes the component.
  virtual void bind(int place, int64_t page_size);
  virtual std::unique_ptr<Gate> gate() const = 0;
  // Pages back from its end that a sequence of `end` pages needs; those above the root do not
  // count.
  virtual int64_t need(int64_t end) const = 0;
  virtual bool can_end(const Node& node) const;

  // A row is one page id per page of a run, kHole where nothing is handed over; a value is what a
  // node keeps of it. The default is one page per page: all of them or no value.

  // Adds to `cuts` where the row must be cut, counted from `origin` pages before it.
  virtual void cuts(IdsView row, int64_t origin, std::vector<int64_t>& cuts) const;
  // The value of a piece; empty: none.
  virtual IdsView value(IdsView row) const;
  // Divides a value for a split: `value` becomes the suffix's, and what is returned the prefix's.
  virtual Ids divide(Ids& value, int64_t num_prefix_pages) const;
  // The value as one id per page, in `scratch` if it is not so by itself.
  virtual IdsView spread(IdsView value, int64_t num_pages, Ids& scratch) const;
  // What is wrong with a node's value, in words; empty: nothing.
  virtual std::string misfit(IdsView value, int64_t num_pages, int tier) const;
};

std::shared_ptr<Component> make_full();
std::shared_ptr<Component> make_swa(int64_t window_tokens);
std::shared_ptr<Component> make_mamba();

}  // namespace hicache::radix
