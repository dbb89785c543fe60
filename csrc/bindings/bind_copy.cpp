// Buffers, sets of copies and the CPU executors for hicache_ext.layout and hicache_ext.copy.
#include <pybind11/stl.h>

#include <string>

#include "copy_objects.h"
#include "hicache/check.h"
#include "hicache/copy.h"
#include "hicache/thread_pool.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::copy {
namespace {

int64_t copy_on_cpu(const CopySetObject& object, bool reference, int num_threads,
                    const std::string& isa_name) {
  const CopySet& set = object.on_host();
  const Isa isa = isa_of(isa_name);
  HICACHE_CHECK(kLayout, num_threads >= 0, "num_threads=", num_threads);
  require_host_ids(set);
  py::gil_scoped_release release;
  const int64_t num_bytes = check_page_ids(set);
  if (reference)
    copy_cpu_ref(set);
  else
    copy_cpu(set, num_threads > 0 ? num_threads : num_usable_cpus(), isa);
  return num_bytes;
}

Registrar registrar([](py::module_& m) {
  py::class_<BufferObject, std::shared_ptr<BufferObject>>(m, "Buffer")
      .def_static("of_range", &BufferObject::of_range, py::arg("address"), py::arg("num_bytes"))
      .def_static("of_planes", &BufferObject::of_planes, py::arg("addresses"),
                  py::arg("plane_bytes"))
      .def("overlaps", &BufferObject::overlaps, py::arg("other"));
  py::class_<IdArray>(m, "IdArray")
      .def(py::init<uintptr_t, int32_t, int64_t>(), py::kw_only(), py::arg("address"),
           py::arg("width"), py::arg("size"));
  py::class_<PartFacts>(m, "PartFacts")
      .def_readonly("num_positions", &PartFacts::num_positions)
      .def_readonly("align_bytes", &PartFacts::align_bytes)
      .def_readonly("num_device_id_lists", &PartFacts::num_device_id_lists);
  py::class_<CopySetObject>(m, "CopySet")
      .def(py::init<>())
      .def_property_readonly("num_bytes", &CopySetObject::num_bytes)
      .def_property_readonly("num_runs", &CopySetObject::num_runs)
      .def_property_readonly("facts", &CopySetObject::facts)
      .def_property_readonly("shared", &CopySetObject::shared)
      .def("check_page_ids", [](const CopySetObject& set) { return check_page_ids(set.on_host()); })
      .def("add", &CopySetObject::add, py::arg("plan"), py::arg("src"), py::arg("src_ids"),
           py::arg("dst"), py::arg("dst_ids"));
  // What array.ctypes.data says, at a tenth of its cost.
  m.def("array_address",
        [](const py::array& array) { return reinterpret_cast<uintptr_t>(array.data()); });
  m.attr("MAX_PARTS") = kMaxParts;
  m.def("num_usable_cpus", &num_usable_cpus);
  m.def("has_isa", [](const std::string& name) { return has_isa(isa_of(name)); });
  m.def("copy_on_cpu", &copy_on_cpu, py::arg("set"), py::kw_only(), py::arg("reference"),
        py::arg("num_threads"), py::arg("isa"));
});

}  // namespace
}  // namespace hicache::bindings::copy
