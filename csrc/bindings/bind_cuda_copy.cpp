// Copies on a CUDA stream for hicache_ext.copy.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "copy_objects.h"
#include "hicache/check.h"
#include "hicache/cuda_copy.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::cuda_copy {
namespace {

using Ring = std::shared_ptr<StagingRing>;

CudaExecutor executor_of(const std::string& name) {
  if (name == "sm_reg") return CudaExecutor::kSmReg;
  if (name == "sm_bulk") return CudaExecutor::kSmBulk;
  if (name == "ce_batch") return CudaExecutor::kCeBatch;
  if (name == "staged") return CudaExecutor::kStaged;
  raise(ErrorKind::kLayout, "executor='", name, "' is none of sm_reg, sm_bulk, ce_batch, staged");
}

std::optional<StreamPriority> priority_of(const std::optional<std::string>& name) {
  if (!name) return std::nullopt;
  HICACHE_CHECK(kLayout, *name == "low" || *name == "high", "priority='", *name,
                "' is none of low, high");
  return *name == "high" ? StreamPriority::kHigh : StreamPriority::kLow;
}

std::unique_ptr<CopyTicket> start(const CopySetObject& object, const std::string& executor,
                                  int device, int num_sms, uintptr_t stream,
                                  const std::optional<std::string>& priority, const Ring& ring) {
  HICACHE_CHECK(kLayout, num_sms >= 0, "num_sms=", num_sms);
  const CopySet& set = object.on_host();
  py::gil_scoped_release release;
  return copy_on_stream(set, {executor_of(executor), device, num_sms,
                              reinterpret_cast<CudaStream>(stream), priority_of(priority), ring});
}

Registrar registrar([](py::module_& m) {
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<StagingRing, Ring>(m, "StagingRing")
      .def_property_readonly("slot_bytes", &StagingRing::slot_bytes)
      .def(py::init([](int device, uintptr_t address, size_t num_bytes) {
             return std::make_shared<StagingRing>(cuda_api(), device,
                                                  reinterpret_cast<std::byte*>(address), num_bytes);
           }),
           py::kw_only(), py::arg("device"), py::arg("address"), py::arg("num_bytes"), no_gil);
  m.attr("STAGING_BYTES") = kStagingBytes;
  py::class_<CopyTicket>(m, "CopyTicket")
      .def_property_readonly("is_captured", &CopyTicket::is_captured)
      .def("query", &CopyTicket::query, no_gil)
      .def("wait", &CopyTicket::wait, no_gil)
      .def(
          "wait_on_stream",
          [](CopyTicket& ticket, uintptr_t stream) {
            ticket.wait_on_stream(reinterpret_cast<CudaStream>(stream));
          },
          py::arg("stream"), no_gil)
      .def("result", &CopyTicket::result, no_gil);
  m.def(
      "is_capturing",
      [](int device, uintptr_t stream) {
        return is_capturing(device, reinterpret_cast<CudaStream>(stream));
      },
      py::arg("device"), py::arg("stream"));
  m.def(
      "order_streams",
      [](int device, uintptr_t before, uintptr_t after) {
        order_streams(device, reinterpret_cast<CudaStream>(before),
                      reinterpret_cast<CudaStream>(after));
      },
      py::arg("device"), py::kw_only(), py::arg("before"), py::arg("after"));
  m.def(
      "device_of_memory",
      [](uintptr_t address) { return device_of_memory(reinterpret_cast<const void*>(address)); },
      py::arg("address"));
  m.def("copy_on_stream", &start, py::arg("set"), py::kw_only(), py::arg("executor"),
        py::arg("device"), py::arg("num_sms"), py::arg("stream"), py::arg("priority") = py::none(),
        py::arg("ring") = py::none());
});

}  // namespace
}  // namespace hicache::bindings::cuda_copy
