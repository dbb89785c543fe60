// Copies on a CUDA stream for hicache_ext.copy.
#include <pybind11/pybind11.h>

#include "copy_objects.h"
#include "hicache/check.h"
#include "hicache/cuda_copy.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::cuda_copy {
namespace {

const uint64_t* table_on(BufferObject& buffer, int device) {
  if (buffer.planes.empty()) return nullptr;
  auto& table = buffer.planes_on[device];
  if (table == nullptr) table = upload_table(buffer.planes, device);
  return table.get();
}

// With the plane tables in the device's memory; uploaded at the first use, owned by the buffers.
CopySet on_device(const CopySetObject& object, int device) {
  CopySet set = object.on_host();
  for (uint32_t part = 0; part < set.num_parts; ++part) {
    set.parts[part].src_planes = table_on(object.src(part), device);
    set.parts[part].dst_planes = table_on(object.dst(part), device);
  }
  return set;
}

std::unique_ptr<CopyTicket> start(const CopySetObject& object, int device, int num_sms,
                                  uintptr_t stream) {
  HICACHE_CHECK(kLayout, num_sms >= 0, "num_sms=", num_sms);
  require_device(device);
  const CopySet set = on_device(object, device);
  py::gil_scoped_release release;
  return copy_sm_reg(set, {device, num_sms, reinterpret_cast<CUstream_st*>(stream)});
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
