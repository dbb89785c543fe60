// Copies on a CUDA stream for hicache_ext.copy.
#include <pybind11/pybind11.h>

#include "hicache/check.h"
#include "hicache/cuda_copy.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::cuda_copy {
namespace {

// Page ids by address, since they may lie on the device.
struct IdArray {
  uintptr_t address;
  int32_t width;  // bytes
  IdPlace place;
};

PageIds page_ids(const char* side, const IdArray& ids) {
  HICACHE_CHECK(kLayout, ids.width == 4 || ids.width == 8, side,
                " page ids must be int32 or int64, not ", ids.width, " bytes wide");
  return {reinterpret_cast<const void*>(ids.address),
          ids.width == 4 ? IdWidth::kInt32 : IdWidth::kInt64};
}

std::unique_ptr<CopyTicket> start(const Plan& plan, uintptr_t src, uintptr_t dst,
                                  const IdArray& src_ids, const IdArray& dst_ids,
                                  int64_t num_positions, int device, int num_sms,
                                  uintptr_t stream) {
  HICACHE_CHECK(kLayout, num_sms >= 0, "num_sms=", num_sms);
  CopyParams params{};
  params.plan = plan;
  params.src = reinterpret_cast<const std::byte*>(src);
  params.dst = reinterpret_cast<std::byte*>(dst);
  params.src_ids = page_ids("source", src_ids);
  params.dst_ids = page_ids("destination", dst_ids);
  params.num_positions = num_positions;
  const CudaCopyOptions options{src_ids.place, dst_ids.place, device, num_sms,
                                reinterpret_cast<CUstream_st*>(stream)};
  py::gil_scoped_release release;
  return copy_sm_reg(params, options);
}

Registrar registrar([](py::module_& m) {
  py::class_<IdArray>(m, "IdArray")
      .def(py::init([](uintptr_t address, int32_t width, bool on_device) {
             return IdArray{address, width, on_device ? IdPlace::kDevice : IdPlace::kHost};
           }),
           py::kw_only(), py::arg("address"), py::arg("width"), py::arg("on_device"));
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
  m.def("copy_sm_reg", &start, py::arg("plan"), py::arg("src"), py::arg("dst"), py::arg("src_ids"),
        py::arg("dst_ids"), py::kw_only(), py::arg("num_positions"), py::arg("device"),
        py::arg("num_sms"), py::arg("stream"));
});

}  // namespace
}  // namespace hicache::bindings::cuda_copy
