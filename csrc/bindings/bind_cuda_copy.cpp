// Copies on a CUDA stream for hicache_ext.copy.
#include <pybind11/pybind11.h>

#include "copy_objects.h"
#include "hicache/check.h"
#include "hicache/cuda_copy.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::cuda_copy {
namespace {

std::unique_ptr<CopyTicket> start(const CopySetObject& set, int device, int num_sms,
                                  uintptr_t stream) {
  HICACHE_CHECK(kLayout, num_sms >= 0, "num_sms=", num_sms);
  const CopySet& on_device = set.on_host();  // no plane table reaches this executor yet
  py::gil_scoped_release release;
  return copy_sm_reg(on_device, {device, num_sms, reinterpret_cast<CUstream_st*>(stream)});
}

Registrar registrar([](py::module_& m) {
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<CopyTicket>(m, "CopyTicket")
      .def("query", &CopyTicket::query, no_gil)
      .def("wait", &CopyTicket::wait, no_gil)
      .def(
          "wait_on_stream",
          [](CopyTicket& ticket, uintptr_t stream) {
            ticket.wait_on_stream(reinterpret_cast<CUstream_st*>(stream));
          },
          py::arg("stream"), no_gil)
      .def("result", &CopyTicket::result, no_gil);
  m.def("copy_sm_reg", &start, py::arg("set"), py::kw_only(), py::arg("device"), py::arg("num_sms"),
        py::arg("stream"));
});

}  // namespace
}  // namespace hicache::bindings::cuda_copy
