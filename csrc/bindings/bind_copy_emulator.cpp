// The kernel's loop body for tests/test_copy_kernel.py.
#include <pybind11/numpy.h>

#include <string>

#include "copy_objects.h"
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
  if (name == "bulk") return EmulatedShape::kBulk;
  raise(ErrorKind::kLayout, "shape='", name, "' is none of by_run, short_run, long_run, bulk");
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;

Emulation emulate(const CopySetObject& set, const Bytes& src, Bytes& dst, uint32_t num_blocks,
                  const std::string& shape, Bytes& num_writes, int64_t max_units,
                  uint32_t max_rings) {
  HICACHE_CHECK(kLayout, num_writes.size() == dst.size(), "num_writes has ", num_writes.size(),
                " bytes, the destination ", dst.size());
  HICACHE_CHECK(kLayout, num_blocks >= 1 && num_blocks <= 65535, "num_blocks=", num_blocks);
  HICACHE_CHECK(kLayout, max_units >= 1 && max_units < kMaxUnits, "max_units=", max_units);
  HICACHE_CHECK(kLayout, max_rings >= 1, "max_rings=", max_rings);
  const Arena from{reinterpret_cast<const std::byte*>(src.data()), src.size()};
  const Arena to{reinterpret_cast<const std::byte*>(dst.data()), dst.size()};
  return emulate_copy(set.on_host(), from, to, {shape_of(shape), num_blocks, max_units, max_rings},
                      num_writes.mutable_data());
}

Registrar registrar([](py::module_& m) {
  py::class_<Emulation>(m, "Emulation")
      .def_readonly("num_workers", &Emulation::num_workers)
      .def_readonly("num_misaligned", &Emulation::num_misaligned)
      .def_readonly("num_outside", &Emulation::num_outside)
      .def_readonly("max_in_flight", &Emulation::max_in_flight)
      .def_readonly("first_bad", &Emulation::first_bad)
      .def_readonly("num_passes", &Emulation::num_passes)
      .def_readonly("num_bytes", &Emulation::num_bytes);
  m.def("emulate_copy", &emulate, py::arg("set"), py::arg("src").noconvert(),
        py::arg("dst").noconvert(), py::kw_only(), py::arg("num_blocks"), py::arg("shape"),
        py::arg("num_writes").noconvert(), py::arg("max_units") = kMaxUnits - 1,
        py::arg("max_rings") = UINT32_MAX);
});

}  // namespace
}  // namespace hicache::bindings::copy_emulator
