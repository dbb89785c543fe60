// NCCL as far as a tick needs it, on any build: addresses, a communicator and a stream as integers.
#include <pybind11/pybind11.h>

#include "hicache/check.h"
#include "hicache/nccl.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::nccl {
namespace {

void all_reduce_min(const NcclLibrary& nccl, uintptr_t send, uintptr_t recv, size_t count,
                    uintptr_t comm, uintptr_t stream) {
  HICACHE_CHECK(kAgreement, comm != 0, "comm=0 is no communicator");
  py::gil_scoped_release no_gil;
  nccl.all_reduce_min(reinterpret_cast<const int64_t*>(send), reinterpret_cast<int64_t*>(recv),
                      count, reinterpret_cast<void*>(comm), reinterpret_cast<CUstream_st*>(stream));
}

Registrar registrar([](py::module_& m) {
  py::class_<NcclLibrary>(m, "NcclLibrary")
      .def(py::init<const std::string&>(), py::arg("path") = "")
      .def_property_readonly("version", &NcclLibrary::version)
      .def("all_reduce_min", &all_reduce_min, py::arg("send"), py::arg("recv"), py::arg("count"),
           py::arg("comm"), py::arg("stream"));
});

}  // namespace
}  // namespace hicache::bindings::nccl
