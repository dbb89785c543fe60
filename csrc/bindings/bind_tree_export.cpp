// TreeCore: reading. dump() tells all of the tree, so that the Python tree's own show() can look at
// it, and tests with the Python tree's own check of the invariants.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "hicache/tree_check.h"
#include "tree_objects.h"

namespace hicache::bindings::tree_export {
namespace {

using radix::TreeState;

py::list path_pages(const TreeState& state, py::handle node_id, py::handle component, int tier,
                    int64_t last) {
  radix::Node* node = state.get(node_arg(state, node_id));
  return to_list(radix::path_pages(state, node, component_arg(state, component), tier, last));
}

py::list keys(TreeState& state, py::handle node_id) {
  py::list keys;
  for (const radix::Node* node :
       radix::nodes_with_keys(state, state.get(node_arg(state, node_id)))) {
    const char* data = reinterpret_cast<const char*>(node->page_keys.get());
    for (int64_t i = 0; i < node->num_pages(); ++i)
      keys.append(py::bytes(data + i * radix::kPageKeyBytes, radix::kPageKeyBytes));
  }
  return keys;
}

py::object pages_or_none(const radix::Ids& pages) {
  return pages.empty() ? py::object(py::none()) : py::object(to_list(pages));
}

// -> (device pages, host pages, locks, queued, used_at)
py::tuple dump_part(const radix::Part& part) {
  return py::make_tuple(
      pages_or_none(part.pages[radix::kDevice]), pages_or_none(part.pages[radix::kHost]),
      py::make_tuple(part.locks[radix::kDevice], part.locks[radix::kHost]),
      py::make_tuple(part.queued[radix::kDevice], part.queued[radix::kHost]), part.used_at);
}

// -> (id, parent, tokens, end, made_at, hits, priority, page keys or None, children_on, parts)
py::tuple dump_node(const TreeState& state, const radix::Node* node) {
  const radix::Tokens tokens = state.tokens_of(node);
  py::object page_keys = py::none();
  if (node->page_keys)
    page_keys = py::bytes(reinterpret_cast<const char*>(node->page_keys.get()),
                          node->num_pages() * radix::kPageKeyBytes);
  py::list parts;
  for (int idx = 0; idx < state.num_components(); ++idx) parts.append(dump_part(node->parts[idx]));
  return py::make_tuple(
      node->id, node->parent->id,
      py::bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()), node->end,
      node->made_at, node->num_hits, node->priority, page_keys,
      py::make_tuple(node->children_on[radix::kDevice], node->children_on[radix::kHost]), parts);
}

// Every node behind its parent, children in their order: -> ([(namespace, root)], [node])
py::tuple dump(const TreeState& state) {
  py::list roots, nodes;
  for (const radix::Node* root : state.roots) {
    roots.append(py::make_tuple(py::bytes(*root->name_space), root->id));
    std::vector<const radix::Node*> todo = {root};
    while (!todo.empty()) {
      const radix::Node* node = todo.back();
      todo.pop_back();
      nodes.append(dump_node(state, node));
      for (const radix::Node* child = node->last_child; child; child = child->previous)
        todo.push_back(child);
    }
  }
  return py::make_tuple(roots, nodes);
}

// -> ([id of each entry whose node lives], entries with and without, those that count as live)
py::tuple dump_queue(TreeState& state, int component_idx, int tier) {
  const radix::EvictQueue& queue = state.queue(component_idx, tier);
  py::list ids;
  for (const auto& entry : queue.entries())
    if (entry.is_alive()) ids.append(entry.id);
  return py::make_tuple(ids, queue.entries().size(), queue.num_live());
}

// -> ([(id, node, tier, pages by component)], [(id, node, target, ids of its receipts)])
py::tuple dump_open(const TreeState& state) {
  py::list receipts, plans;
  for (const auto& [id, receipt] : state.receipts)
    receipts.append(py::make_tuple(id, receipt.node, receipt.tier, to_tuple(receipt.num_pages)));
  for (const auto& [id, plan] : state.plans)
    plans.append(py::make_tuple(id, plan.node, plan.target, to_tuple(plan.receipts)));
  return py::make_tuple(receipts, plans);
}

py::bytes name_space(const TreeState& state, py::handle node) {
  return py::bytes(*state.get(node_arg(state, node))->name_space);
}

py::bytes keys_of(const radix::Node& node) {
  return py::bytes(reinterpret_cast<const char*>(node.page_keys.get()),
                   static_cast<size_t>(node.num_pages() * radix::kPageKeyBytes));
}

// Hands each event to callables: stored(tier, keys, key before, tokens, namespace) and
// removed(tier, keys).
class PythonListener : public radix::Listener {
 public:
  PythonListener(const TreeState& state, py::object stored, py::object removed)
      : state_(state), stored_(std::move(stored)), removed_(std::move(removed)) {}

  void stored(const radix::Node& node, int tier) override {
    py::bytes before("");
    if (!node.parent->is_root()) {
      const std::string keys = keys_of(*node.parent);
      before = py::bytes(keys.substr(keys.size() - radix::kPageKeyBytes));
    }
    const radix::Tokens tokens = state_.tokens_of(&node);
    const auto* data = reinterpret_cast<const char*>(tokens.data());
    stored_(tier, keys_of(node), before, py::bytes(data, tokens.size_bytes()),
            py::bytes(*node.name_space));
  }
  void removed(const radix::Node& node, int tier) override { removed_(tier, keys_of(node)); }

 private:
  const TreeState& state_;
  py::object stored_, removed_;
};

}  // namespace

void add(TreeClass& core) {
  core.def("path_pages", &path_pages)
      .def("keys", &keys)
      .def("num_tokens",
           [](const TreeState& state, py::handle node) {
             return state.get(node_arg(state, node))->end * state.page_size;
           })
      .def("num_hits", [](const TreeState& state,
                          py::handle node) { return state.get(node_arg(state, node))->num_hits; })
      .def("namespace", &name_space)
      .def("owned_pages",
           [](const TreeState& state, py::handle component, int tier) {
             return to_list(state.owned[component_arg(state, component)][tier].sorted());
           })
      .def("page_counts",
           [](const TreeState& state, py::handle component, int tier) {
             const int idx = component_arg(state, component);
             const int64_t num_protected = state.num_protected[idx][tier];
             return py::make_tuple(state.owned[idx][tier].size() - num_protected, num_protected);
           })
      .def("digest", [](TreeState& state) { return state.digest.value(state); })
      .def("listen",
           [](TreeState& state, py::object stored, py::object removed) {
             state.listener =
                 std::make_unique<PythonListener>(state, std::move(stored), std::move(removed));
           })
      .def("is_empty",
           [](const TreeState& state) {
             return !state.owned[0][radix::kDevice].size() && !state.owned[0][radix::kHost].size();
           })
      .def("violations", &radix::violations)
      .def("dump", &dump)
      .def("dump_queue", &dump_queue)
      .def("dump_open", &dump_open)
      .def_property_readonly("num_nodes", [](const TreeState& state) { return state.nodes.size(); })
      .def_property_readonly("num_hashed_nodes",
                             [](const TreeState& state) { return state.digest.num_hashed_nodes; })
      .def_readonly("clock", &TreeState::clock)
      .def_readonly("next_id", &TreeState::next_id)
      .def_readonly("next_ticket", &TreeState::next_ticket);
}

}  // namespace hicache::bindings::tree_export
