// Plans and CPU copies for hicache_ext.layout and hicache_ext.copy.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <string>

#include "copy_params.h"
#include "hicache/check.h"
#include "hicache/copy.h"
#include "hicache/thread_pool.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::copy {
namespace {

PageLayout make_layout(int64_t num_pages, int64_t page_size, int64_t num_layers, int64_t num_kv,
                       int64_t num_heads, int64_t head_bytes, int64_t num_groups,
                       int64_t stride_page, int64_t stride_layer, int64_t stride_kv,
                       int64_t stride_group, int64_t stride_token, int64_t stride_head) {
  HICACHE_CHECK(kLayout,
                num_pages > 0 && page_size > 0 && num_layers > 0 && num_kv > 0 && num_heads > 0 &&
                    head_bytes > 0 && num_groups > 0 && num_heads % num_groups == 0,
                "an extent is not positive, or num_heads=", num_heads,
                " is no multiple of num_groups=", num_groups);
  return {num_pages,   page_size,    num_layers, num_kv,       num_heads,    head_bytes, num_groups,
          stride_page, stride_layer, stride_kv,  stride_group, stride_token, stride_head};
}

Plan plan_of(const PageLayout& src, const PageLayout& dst, std::pair<int64_t, int64_t> layers,
             std::pair<int64_t, int64_t> kv, std::pair<int64_t, int64_t> heads,
             Ascending ascending) {
  return make_plan(src, dst,
                   {layers.first, layers.second, kv.first, kv.second, heads.first, heads.second},
                   ascending);
}

// [(axis bits, extent, source stride, destination stride)], outermost first.
std::vector<std::tuple<uint32_t, uint32_t, int64_t, int64_t>> axes_of(const Plan& plan) {
  std::vector<std::tuple<uint32_t, uint32_t, int64_t, int64_t>> axes;
  for (uint32_t i = plan.num_axes; i-- > 0;)
    axes.emplace_back(plan.axis_bits[i], plan.axes[i].extent.divisor, plan.axes[i].src_stride,
                      plan.axes[i].dst_stride);
  return axes;
}

std::pair<int64_t, int64_t> locate_run(const Plan& plan, int64_t src_page, int64_t dst_page,
                                       uint32_t run) {
  HICACHE_CHECK(kPageIndex, run < plan.runs_per_page.divisor, "run=", run,
                " runs_per_page=", plan.runs_per_page.divisor);
  int64_t src, dst;
  locate(plan, src_page, dst_page, run, src, dst);
  return {src, dst};
}

Isa isa_of(const std::string& name) {
  if (name == "auto") return Isa::kAuto;
  if (name == "portable") return Isa::kPortable;
  if (name == "avx2") return Isa::kAvx2;
  raise(ErrorKind::kLayout, "isa='", name, "' is none of auto, portable, avx2");
}

int64_t copy_on_cpu(const Plan& plan, uintptr_t src, uintptr_t dst, const py::array& src_ids,
                    const py::array& dst_ids, bool reference, int num_threads,
                    const std::string& isa_name) {
  const CopyParams params = host_params(plan, src, dst, src_ids, dst_ids);
  const Isa isa = isa_of(isa_name);
  HICACHE_CHECK(kLayout, num_threads >= 0, "num_threads=", num_threads);
  py::gil_scoped_release release;
  const int64_t num_copied = check_page_ids(params);
  if (reference)
    copy_cpu_ref(params);
  else
    copy_cpu(params, num_threads > 0 ? num_threads : num_usable_cpus(), isa);
  return num_copied * plan.run_bytes * plan.runs_per_page.divisor;
}

Registrar registrar([](py::module_& m) {
  py::class_<PageLayout>(m, "PageLayout")
      .def(py::init(&make_layout), py::kw_only(), py::arg("num_pages"), py::arg("page_size"),
           py::arg("num_layers"), py::arg("num_kv"), py::arg("num_heads"), py::arg("head_bytes"),
           py::arg("num_groups"), py::arg("stride_page"), py::arg("stride_layer"),
           py::arg("stride_kv"), py::arg("stride_group"), py::arg("stride_token"),
           py::arg("stride_head"));
  py::enum_<Ascending>(m, "Ascending")
      .value("SOURCE", Ascending::kSource)
      .value("DESTINATION", Ascending::kDestination);
  py::class_<Plan>(m, "Plan")
      .def_readonly("run_bytes", &Plan::run_bytes)
      .def_readonly("run_bits", &Plan::run_bits)
      .def_readonly("align_bytes", &Plan::align_bytes)
      .def_property_readonly("runs_per_page",
                             [](const Plan& plan) { return plan.runs_per_page.divisor; })
      .def_property_readonly("axes", &axes_of)
      .def("locate", &locate_run, py::arg("src_page"), py::arg("dst_page"), py::arg("run"));
  m.def("make_plan", &plan_of, py::arg("src"), py::arg("dst"), py::kw_only(), py::arg("layers"),
        py::arg("kv"), py::arg("heads"), py::arg("ascending"));
  m.def("fast_div", [](uint32_t n, uint32_t divisor) { return FastDiv::make(divisor).div(n); });
  m.def("num_usable_cpus", &num_usable_cpus);
  m.def("has_isa", [](const std::string& name) { return has_isa(isa_of(name)); });
  m.def("copy_on_cpu", &copy_on_cpu, py::arg("plan"), py::arg("src"), py::arg("dst"),
        py::arg("src_ids"), py::arg("dst_ids"), py::kw_only(), py::arg("reference"),
        py::arg("num_threads"), py::arg("isa"));
});

}  // namespace
}  // namespace hicache::bindings::copy
