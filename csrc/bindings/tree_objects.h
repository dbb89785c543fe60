// Python <-> the native tree: tokens, page ids, names. What is not in a form that can be read at
// once goes through KeyUnit.key() and checked_ids() of the Python tree, which also explain what is
// wrong with it.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "hicache/tree_ops.h"

namespace hicache::bindings {

namespace py = pybind11;

// A prompt as the words of a key, borrowed where they are packed and in one piece already.
class TokensArg {
 public:
  TokensArg(const radix::TreeState& state, py::handle tokens);
  ~TokensArg();
  TokensArg(const TokensArg&) = delete;
  TokensArg& operator=(const TokensArg&) = delete;
  radix::Tokens view() const { return view_; }

 private:
  bool borrow_bytes(py::handle tokens, int64_t unit_words);
  bool copy(py::handle tokens, int64_t unit_words);

  Py_buffer buffer_ = {};  // of an object that is borrowed
  std::vector<uint32_t> words_;
  radix::Tokens view_;
};

struct IdsRule {
  std::string what;   // for errors
  int64_t num_pages;  // < 0: any number
  int64_t lowest;
};
radix::Ids ids_arg(py::handle ids, const IdsRule& rule);

// An integer of any kind, cut to 64 bits; TypeError for what is none.
int64_t clamped(py::handle object);
radix::NodeId node_arg(const radix::TreeState& state, py::handle node);
std::string namespace_arg(py::handle name_space);
int component_arg(const radix::TreeState& state, py::handle name);
// One count per component from {name: count}, 0 where a name is missing. Those that are no whole
// numbers in [0, most] are refused with refuse(count, name), which raises.
using RefuseCount = std::function<void(const std::string& count, py::handle name)>;
std::vector<int64_t> counts_arg(const radix::TreeState& state, py::handle counts, int64_t most,
                                const RefuseCount& refuse);

py::list to_list(radix::IdsView ids);
py::dict to_dict(const radix::TreeState& state, const radix::IdsByComponent& ids);
py::tuple to_tuple(const std::vector<int64_t>& values);

[[noreturn]] void raise_tree_error(const std::string& message);

// The parts of TreeCore, one file each.
using TreeClass = py::class_<radix::TreeState>;
namespace tree_copies {
void add(py::module_& m, TreeClass& core);
}
namespace tree_export {
void add(TreeClass& core);
}
namespace tree_pages {
void add(TreeClass& core);
}

}  // namespace hicache::bindings
