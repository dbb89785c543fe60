// The shared-memory group for Python. Waiting is done without the GIL, in slices, so that Ctrl-C
// and other threads get through.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "hicache/check.h"
#include "hicache/shm_group.h"
#include "registry.h"
#include "waiting.h"

namespace py = pybind11;

namespace hicache::bindings::shm_group {
namespace {

using Lanes = py::array_t<int64_t, py::array::c_style>;

void attach(ShmGroup& group, double deadline_s) {
  const bool met = in_slices(deadline_s, [&](double max_s) { return group.attach(max_s); });
  HICACHE_CHECK(kAgreement, met, group.describe_absent(), " after ", deadline_s, " s");
}

void issue(ShmGroup& group, const Lanes& lanes) {
  HICACHE_CHECK(kAgreement, lanes.ndim() == 1 && lanes.size() == group.num_lanes(), "rank ",
                group.rank(), " issued ", lanes.size(), " lanes, the group has ",
                group.num_lanes());
  group.issue(lanes.data());
}

Lanes result(ShmGroup& group, double deadline_s) {
  // The usual case, everyone in time, costs no release of the GIL.
  const bool there =
      group.wait(0) || in_slices(deadline_s, [&](double max_s) { return group.wait(max_s); });
  HICACHE_CHECK(kAgreement, there, group.describe_late(deadline_s));
  Lanes out(group.num_lanes());
  group.collect(out.mutable_data());
  return out;
}

Registrar registrar([](py::module_& m) {
  py::class_<ShmGroup>(m, "ShmGroup")
      .def(py::init<const std::string&, int, int, int64_t>(), py::arg("name"), py::arg("rank"),
           py::arg("size"), py::arg("num_lanes"))
      .def("attach", &attach, py::arg("deadline_s"))
      .def("issue", &issue, py::arg("lanes").noconvert())
      .def("ready", &ShmGroup::ready)
      .def("result", &result, py::arg("deadline_s"))
      .def("note", &ShmGroup::note, py::arg("text"))
      .def("close", &ShmGroup::close);
});

}  // namespace
}  // namespace hicache::bindings::shm_group
