// TreeCore: what goes between the tiers, and the window commit.
#include <pybind11/pybind11.h>

#include <memory>

#include "hicache/tree_window.h"
#include "tree_objects.h"

namespace hicache::bindings::tree_copies {
namespace {

using radix::TreeState;

// -> None, or (id, node, [(node, component, pages, ids)], [(receipt, tier, pages by component)])
py::object plan_tuple(const TreeState& state, const radix::Plan* plan) {
  if (!plan) return py::none();
  py::list spans, receipts;
  for (const radix::Span& span : plan->spans)
    spans.append(py::make_tuple(span.node, state.components[span.component_idx]->name,
                                span.num_pages, to_list(span.pages)));
  for (const int64_t id : plan->receipts) {
    const radix::Receipt& receipt = state.receipts.at(id);
    receipts.append(py::make_tuple(id, receipt.tier, to_tuple(receipt.num_pages)));
  }
  return py::make_tuple(plan->id, plan->node, spans, receipts);
}

py::object begin_backup(TreeState& state, py::handle node, int64_t last, int64_t min_hits) {
  state.guard();
  return plan_tuple(state, radix::begin_backup(state, node_arg(state, node), last, min_hits));
}

py::object begin_load_back(TreeState& state, py::handle node) {
  state.guard();
  return plan_tuple(state, radix::begin_load_back(state, node_arg(state, node)));
}

py::dict commit(TreeState& state, int64_t plan_id, py::handle pages) {
  const radix::Plan& plan = state.plans.at(plan_id);
  const auto mapping = py::reinterpret_borrow<py::object>(pages);
  for (const auto& name : mapping) component_arg(state, name);
  radix::IdsByComponent ids;
  for (const auto& component : state.components) {
    const std::string what = "plan " + std::to_string(plan.id) + ", " + component->name + " " +
                             radix::tier_name(plan.target) + " pages";
    const py::object given = mapping.attr("get")(component->name, py::list());
    ids.push_back(ids_arg(given, {what, plan.num_target_pages(component->idx), 0}));
    state.check_unowned(component->idx, plan.target, ids.back());
  }
  return to_dict(state, radix::commit(state, plan_id, radix::Rows(ids.begin(), ids.end())));
}

std::unique_ptr<radix::WindowTxn> make_window(TreeState& state, py::handle component_name,
                                              py::handle anchor, py::handle node,
                                              py::handle pages) {
  state.guard();
  const int idx = component_arg(state, component_name);
  HICACHE_CHECK(kTree, !state.components[idx]->is_base, std::string(py::repr(component_name)),
                " is the base: its host pages come by insert_host");
  radix::Ids ids = ids_arg(pages, {"window, " + state.components[idx]->name, -1, 0});
  const radix::NodeId anchor_id = node_arg(state, anchor);
  const radix::NodeId node_id = node.is_none() ? anchor_id : node_arg(state, node);
  return std::make_unique<radix::WindowTxn>(state, idx, anchor_id, node_id, std::move(ids));
}

}  // namespace

void add(py::module_& m, TreeClass& core) {
  core.def("begin_backup", &begin_backup)
      .def("begin_load_back", &begin_load_back)
      .def("commit", &commit)
      .def("abort", &radix::abort)
      .def("window", &make_window, py::keep_alive<0, 1>());
  py::class_<radix::WindowTxn>(m, "TreeWindow")
      .def("open", &radix::WindowTxn::open)
      .def("stage", &radix::WindowTxn::stage)
      .def("commit", &radix::WindowTxn::commit)
      .def("rollback", &radix::WindowTxn::rollback)
      .def("__repr__", &radix::WindowTxn::text)
      .def_property_readonly("attached",
                             [](const radix::WindowTxn& txn) { return to_list(txn.attached()); })
      .def_property_readonly("released",
                             [](const radix::WindowTxn& txn) { return to_list(txn.released()); })
      .def_property_readonly("pages",
                             [](const radix::WindowTxn& txn) { return to_list(txn.pages()); });
}

}  // namespace hicache::bindings::tree_copies
