// TreeCore: the tree page by page, for tests that compare it with a model after every call. Built
// with the C API: this is asked for often.
#include <pybind11/pybind11.h>

#include "tree_objects.h"

namespace hicache::bindings::tree_pages {
namespace {

using radix::Node;
using radix::TreeState;

class PageRows {
 public:
  explicit PageRows(const TreeState& state) : state_(state) {
    for (const Node* root : state.roots) {
      add_root(root);
      std::vector<const Node*> todo = {root};
      while (!todo.empty()) {
        const Node* node = todo.back();
        todo.pop_back();
        if (!node->is_root()) add_pages(node);
        for (const Node* child = node->last_child; child; child = child->previous)
          todo.push_back(child);
      }
    }
  }
  py::tuple result() const { return py::make_tuple(rows_, ids_); }

 private:
  void add_root(const Node* root) {
    add_row(root, 0, py::bytes(*root->name_space), true);
    for (int i = 0; i < state_.num_components() * radix::kNumTiers; ++i) ids_.append(py::none());
  }

  void add_pages(const Node* node) {
    const int64_t num_pages = node->num_pages();
    const auto* tokens = reinterpret_cast<const char*>(node->tokens.get());
    const size_t page_bytes = state_.page_words * sizeof(uint32_t);
    for (int64_t i = 0; i < num_pages; ++i) {
      const py::bytes key(tokens + i * page_bytes, page_bytes);
      add_row(node, node->start() + i + 1, key, i + 1 == num_pages);
      for (int idx = 0; idx < state_.num_components(); ++idx)
        for (int tier = 0; tier < radix::kNumTiers; ++tier) add_id(node, idx, tier, i);
    }
  }

  void add_row(const Node* node, int64_t depth, const py::bytes& key, bool is_end) {
    py::tuple row(6 + 3 * state_.num_components());
    Py_ssize_t i = 0;
    const auto put = [&](PyObject* item) { PyTuple_SET_ITEM(row.ptr(), i++, item); };
    put(PyLong_FromLongLong(depth));
    put(key.inc_ref().ptr());
    put(is_end ? PyLong_FromLongLong(node->id) : py::none().release().ptr());
    for (const int64_t value : {node->made_at, node->num_hits, node->priority})
      put(PyLong_FromLongLong(value));
    for (int idx = 0; idx < state_.num_components(); ++idx) {
      const radix::Part& part = node->parts[idx];
      for (const int32_t locks : part.locks) put(PyLong_FromLong(locks));
      put(PyLong_FromLongLong(part.used_at));
    }
    rows_.append(row);
  }

  void add_id(const Node* node, int idx, int tier, int64_t i) {
    radix::IdsView value = node->parts[idx].pages[tier];
    if (!value.empty()) value = state_.components[idx]->spread(value, node->num_pages(), scratch_);
    const auto place = static_cast<size_t>(i);
    const bool is_held = place < value.size() && value[place] >= 0;
    ids_.append(is_held ? py::object(py::int_(value[place])) : py::object(py::none()));
  }

  const TreeState& state_;
  py::list rows_, ids_;
  radix::Ids scratch_;
};

}  // namespace

void add(TreeClass& core) {
  core.def("page_rows", [](const TreeState& state) { return PageRows(state).result(); });
}

}  // namespace hicache::bindings::tree_pages
