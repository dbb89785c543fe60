// Layouts and plans for hicache_ext.layout and hicache_ext.plan.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "hicache/check.h"
#include "hicache/plan.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::plan {
namespace {

PageLayout make_layout(Planes planes, int64_t num_pages, int64_t page_size, int64_t num_layers,
                       int64_t num_kv, int64_t num_heads, int64_t head_bytes, int64_t num_groups,
                       int64_t stride_page, int64_t stride_layer, int64_t stride_kv,
                       int64_t stride_group, int64_t stride_token, int64_t stride_head) {
  HICACHE_CHECK(kLayout,
                num_pages > 0 && page_size > 0 && num_layers > 0 && num_kv > 0 && num_heads > 0 &&
                    head_bytes > 0 && num_groups > 0 && num_heads % num_groups == 0,
                "an extent is not positive, or num_heads=", num_heads,
                " is no multiple of num_groups=", num_groups);
  HICACHE_CHECK(kLayout, planes == Planes::kOneBuffer || num_layers < kMaxUnits / num_kv,
                "num_layers=", num_layers, " num_kv=", num_kv, " are too many planes for a table");
  return {planes,    num_pages,    page_size,    num_layers,  num_kv,
          num_heads, head_bytes,   num_groups,   stride_page, stride_layer,
          stride_kv, stride_group, stride_token, stride_head};
}

using Range = std::pair<int64_t, int64_t>;

Plan plan_of(const PageLayout& src, const PageLayout& dst, const Range& layers, const Range& kv,
             const Range& heads, const Range& tokens, Ascending ascending,
             const std::string& order) {
  HICACHE_CHECK(kLayout, order == "pages" || order == "layers", "order='", order,
                "' is none of pages, layers");
  return make_plan(src, dst,
                   {layers.first, layers.second, kv.first, kv.second, heads.first, heads.second,
                    tokens.first, tokens.second},
                   ascending, order == "layers" ? RunOrder::kLayers : RunOrder::kPages);
}

// [(axis bits, extent, source stride, destination stride, source planes, destination planes)],
// outermost first.
using AxisTuple = std::tuple<uint32_t, int64_t, int64_t, int64_t, int32_t, int32_t>;

std::vector<AxisTuple> axes_of(const Plan& plan) {
  std::vector<AxisTuple> axes;
  for (uint32_t i = plan.num_axes; i-- > 0;) {
    const Axis& axis = plan.axes[i];
    axes.emplace_back(plan.axis_bits[i], axis.extent, axis.src_stride, axis.dst_stride,
                      axis.src_planes, axis.dst_planes);
  }
  return axes;
}

// ((source plane, offset), (destination plane, offset)) of any run, also past 2^31.
std::pair<std::pair<int64_t, int64_t>, std::pair<int64_t, int64_t>> locate_any(const Plan& plan,
                                                                               int64_t src_page,
                                                                               int64_t dst_page,
                                                                               int64_t run) {
  HICACHE_CHECK(kPageIndex, run >= 0 && run < plan.runs_per_page, "run=", run,
                " runs_per_page=", plan.runs_per_page);
  const Slices slices(plan, kMaxUnits - 1);
  int64_t slice = 0;
  Plan box = slices.at(0);
  for (; run >= box.runs_per_page; box = slices.at(++slice)) run -= box.runs_per_page;
  Place src, dst;
  locate(box, src_page, dst_page, static_cast<uint32_t>(run), src, dst);
  return {{src.plane, src.offset}, {dst.plane, dst.offset}};
}

Registrar registrar([](py::module_& m) {
  py::enum_<Planes>(m, "Planes")
      .value("ONE_BUFFER", Planes::kOneBuffer)
      .value("TABLE", Planes::kTable);
  py::class_<PageLayout>(m, "PageLayout")
      .def(py::init(&make_layout), py::kw_only(), py::arg("planes"), py::arg("num_pages"),
           py::arg("page_size"), py::arg("num_layers"), py::arg("num_kv"), py::arg("num_heads"),
           py::arg("head_bytes"), py::arg("num_groups"), py::arg("stride_page"),
           py::arg("stride_layer"), py::arg("stride_kv"), py::arg("stride_group"),
           py::arg("stride_token"), py::arg("stride_head"));
  py::enum_<Ascending>(m, "Ascending")
      .value("SOURCE", Ascending::kSource)
      .value("DESTINATION", Ascending::kDestination);
  py::class_<Plan>(m, "Plan")
      .def_readonly("run_bytes", &Plan::run_bytes)
      .def_readonly("run_bits", &Plan::run_bits)
      .def_readonly("align_bytes", &Plan::align_bytes)
      .def_readonly("runs_per_page", &Plan::runs_per_page)
      .def_property_readonly("num_steps", &num_steps)
      .def_property_readonly("axes", &axes_of)
      .def("locate", &locate_any, py::arg("src_page"), py::arg("dst_page"), py::arg("run"));
  m.def("make_plan", &plan_of, py::arg("src"), py::arg("dst"), py::kw_only(), py::arg("layers"),
        py::arg("kv"), py::arg("heads"), py::arg("tokens"), py::arg("ascending"),
        py::arg("order") = "pages");
  m.def("fast_div", [](uint32_t n, uint32_t divisor) { return FastDiv::make(divisor).div(n); });
});

}  // namespace
}  // namespace hicache::bindings::plan
