// The profiler's ranges for hicache_ext.profile.
#include <pybind11/pybind11.h>

#include <string>

#include "hicache/profile.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::profile {
namespace {

// The GIL stays: a call takes far less time than letting go of it.
Registrar registrar([](py::module_& m) {
  m.attr("with_nvtx") = with_nvtx();
  py::enum_<CopyDirection>(m, "CopyDirection")
      .value("HOST_TO_HOST", CopyDirection::kHostToHost)
      .value("HOST_TO_DEVICE", CopyDirection::kHostToDevice)
      .value("DEVICE_TO_HOST", CopyDirection::kDeviceToHost)
      .value("DEVICE_TO_DEVICE", CopyDirection::kDeviceToDevice);
  m.def("is_profiled", &is_profiled);
  m.def(
      "begin_copy",
      [](const std::string& executor, CopyDirection direction, uint64_t num_bytes,
         uint64_t num_runs) {
        return begin_copy({executor.c_str(), direction, num_bytes, num_runs});
      },
      py::arg("executor"), py::arg("direction"), py::arg("num_bytes"), py::arg("num_runs"));
  m.def("end_enqueue", &end_enqueue);
  m.def("end_copy", &end_copy, py::arg("id"));
});

}  // namespace
}  // namespace hicache::bindings::profile
