// The kernel's loop body for tests/test_copy_kernel.py.
#include <pybind11/numpy.h>

#include <string>

#include "copy_params.h"
#include "hicache/check.h"
#include "hicache/copy_emulator.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::copy_emulator {
namespace {

EmulatedShape shape_of(const std::string& name) {
  if (name == "by_run") return EmulatedShape::kByRun;
  if (name == "short_run") return EmulatedShape::kShortRun;
  if (name == "long_run") return EmulatedShape::kLongRun;
  raise(ErrorKind::kLayout, "shape='", name, "' is none of by_run, short_run, long_run");
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;

Emulation emulate(const Plan& plan, const Bytes& src, Bytes& dst, const py::array& src_ids,
                  const py::array& dst_ids, uint32_t num_blocks, const std::string& shape,
                  Bytes& num_writes) {
  HICACHE_CHECK(kLayout, num_writes.size() == dst.size(), "num_writes has ", num_writes.size(),
                " bytes, the destination ", dst.size());
  HICACHE_CHECK(kLayout, num_blocks >= 1 && num_blocks <= 65535, "num_blocks=", num_blocks);
  const CopyParams params =
      host_params(plan, reinterpret_cast<uintptr_t>(src.data()),
                  reinterpret_cast<uintptr_t>(dst.mutable_data()), src_ids, dst_ids);
  return emulate_copy(params, src.size(), dst.size(), num_blocks, shape_of(shape),
                      num_writes.mutable_data());
}

Registrar registrar([](py::module_& m) {
  py::class_<Emulation>(m, "Emulation")
      .def_readonly("num_workers", &Emulation::num_workers)
      .def_readonly("num_misaligned", &Emulation::num_misaligned)
      .def_readonly("num_outside", &Emulation::num_outside)
      .def_readonly("max_in_flight", &Emulation::max_in_flight)
      .def_readonly("first_bad", &Emulation::first_bad)
      .def_readonly("num_copied", &Emulation::num_copied);
  m.def("emulate_copy", &emulate, py::arg("plan"), py::arg("src").noconvert(),
        py::arg("dst").noconvert(), py::arg("src_ids"), py::arg("dst_ids"), py::kw_only(),
        py::arg("num_blocks"), py::arg("shape"), py::arg("num_writes").noconvert());
});

}  // namespace
}  // namespace hicache::bindings::copy_emulator
