// The window commit: pages read for the end of a path become the tree's, all of them or none. As
// tree/window.py: open() plans every step and allocates what undoing it needs.
#pragma once

#include <optional>

#include "hicache/tree_ops.h"

namespace hicache::radix {

class WindowTxn {
 public:
  WindowTxn(TreeState& state, int component_idx, NodeId anchor, NodeId node, Ids pages);
  WindowTxn(const WindowTxn&) = delete;
  WindowTxn& operator=(const WindowTxn&) = delete;

  void open();
  void stage();
  void commit();    // stages first if that was not done
  void rollback();  // cannot fail
  bool is_closed() const { return is_closed_; }
  std::string text() const;

  const Ids& attached() const { return attached_; }
  const Ids& released() const { return released_; }
  const Ids& pages() const { return pages_; }

 private:
  struct Step {
    Node* node;
    int64_t num_prefix_pages;  // > 0: the node is split behind these
    Ids value;
    std::optional<SplitUndo> saved;
  };
  void plan(Node* anchor, Node* node);
  void plan_step(Node* node, int64_t first, int64_t begin);
  void check_open() const;

  TreeState& state_;
  const int component_idx_;
  const NodeId anchor_, node_;
  Ids pages_, attached_, released_;
  std::vector<Step> steps_;
  size_t num_done_ = 0;
  bool is_staged_ = false, is_closed_ = false;
};

}  // namespace hicache::radix
