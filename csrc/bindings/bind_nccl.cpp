// NCCL as far as ticks need it, on any build: addresses, a communicator and a stream as integers.
// Waits without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "hicache/check.h"
#include "hicache/nccl.h"
#include "hicache/nccl_comm.h"
#include "registry.h"
#include "waiting.h"

namespace py = pybind11;

namespace hicache::bindings::nccl {
namespace {

py::bytes make_id(const NcclLibrary& nccl) {
  const NcclId id = nccl.make_id();
  return {id.bytes, sizeof(id.bytes)};
}

std::unique_ptr<NcclComm> make_comm(const NcclLibrary& nccl, const std::string& id, int rank,
                                    int size, int device) {
  NcclId native;
  HICACHE_CHECK(kAgreement, id.size() == sizeof(native.bytes), "id has ", id.size(), " bytes, not ",
                sizeof(native.bytes));
  HICACHE_CHECK(kAgreement, 0 <= rank && rank < size, "rank=", rank, " not in [0, ", size, ")");
  std::memcpy(native.bytes, id.data(), sizeof(native.bytes));
  py::gil_scoped_release no_gil;
  return std::make_unique<NcclComm>(cuda_api(), nccl, native, rank, size, device);
}

std::unique_ptr<NcclExchange> make_exchange(const NcclLibrary& nccl, uintptr_t comm, int device,
                                            uintptr_t stream, const std::vector<int64_t>& row) {
  py::gil_scoped_release no_gil;
  return std::make_unique<NcclExchange>(cuda_api(), nccl, reinterpret_cast<void*>(comm), device,
                                        reinterpret_cast<CudaStream>(stream), row);
}

template <class Waits>
bool wait(Waits& what, double max_s) {
  return in_slices(max_s, [&](double slice_s) { return what.wait(slice_s); });
}

Registrar registrar([](py::module_& m) {
  using no_gil = py::call_guard<py::gil_scoped_release>;
  py::class_<NcclLibrary>(m, "NcclLibrary")
      .def(py::init<const std::string&>(), py::arg("path") = "")
      .def_property_readonly("version", &NcclLibrary::version)
      .def("make_id", &make_id);
  py::class_<NcclComm>(m, "NcclComm")
      .def(py::init(&make_comm), py::arg("nccl"), py::arg("id"), py::arg("rank"), py::arg("size"),
           py::arg("device"))
      .def_property_readonly(
          "address", [](const NcclComm& comm) { return reinterpret_cast<uintptr_t>(comm.get()); })
      .def("wait", &wait<NcclComm>, py::arg("max_s"))
      .def("destroy", &NcclComm::destroy, no_gil())
      .def("abort", &NcclComm::abort, no_gil());
  py::class_<NcclExchange>(m, "NcclExchange")
      .def(py::init(&make_exchange), py::arg("nccl"), py::arg("comm"), py::arg("device"),
           py::arg("stream"), py::arg("row"))
      .def("wait", &wait<NcclExchange>, py::arg("max_s"))
      .def("rows", &NcclExchange::rows);
});

}  // namespace
}  // namespace hicache::bindings::nccl
