// The tick on a GPU for Python; only where with_cuda. Waits without the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

#include "hicache/nccl_group.h"
#include "lane_objects.h"
#include "registry.h"
#include "waiting.h"

namespace py = pybind11;

namespace hicache::bindings::nccl_group {
namespace {

using Lanes = py::array_t<int64_t, py::array::c_style>;

std::unique_ptr<NcclGroup> make_group(const NcclLibrary& nccl, const LaneSchema& schema,
                                      uintptr_t comm, int device, uintptr_t stream) {
  py::gil_scoped_release no_gil;
  return std::make_unique<NcclGroup>(nccl, schema, reinterpret_cast<void*>(comm), device,
                                     reinterpret_cast<CUstream_st*>(stream));
}

void issue(NcclGroup& group, const Lanes& lanes) {
  const int64_t want = num_lanes(group.schema());
  HICACHE_CHECK(kAgreement, lanes.ndim() == 1 && lanes.size() == want, "rank ", group.rank(),
                " issued ", lanes.size(), " lanes, the group has ", want);
  const int64_t* data = lanes.data();
  py::gil_scoped_release no_gil;
  group.issue(data);
}

void issue_records(NcclGroup& group, uintptr_t header, uintptr_t slots, uintptr_t endpoints) {
  HICACHE_CHECK(kAgreement, header != 0 && slots != 0 && endpoints != 0, "header=", header,
                " slots=", slots, " endpoints=", endpoints);
  py::gil_scoped_release no_gil;
  group.issue_records(reinterpret_cast<const LaneHeader*>(header),
                      reinterpret_cast<const SlotRecord*>(slots),
                      reinterpret_cast<const uint8_t*>(endpoints));
}

// -> (lanes, (lane, mine, min, max), {slot: slot_type})
py::tuple result(NcclGroup& group, double deadline_s, const py::type& slot_type) {
  const bool there =
      group.ready() || in_slices(deadline_s, [&](double max_s) { return group.wait(max_s); });
  HICACHE_CHECK(kAgreement, there, "tick ", group.num_collected(), ", rank ", group.rank(), " of ",
                group.size(), ": 1 to ", group.size() - 1, " other ranks are late after ",
                deadline_s, " s; ticks issued by this rank: ", group.num_issued(),
                ", by each other: at least ", group.num_collected());
  Lanes lanes(num_lanes(group.schema()));
  std::vector<AgreedRecord> records(group.schema().num_slots);
  const LaneVerdict verdict = group.collect(lanes.mutable_data(), records.data());
  return py::make_tuple(lanes, verdict_tuple(verdict),
                        agreed_slots(group.schema(), verdict, records.data(), slot_type));
}

Registrar registrar([](py::module_& m) {
  py::class_<NcclGroup>(m, "NcclGroup")
      .def(py::init(&make_group), py::arg("nccl"), py::arg("schema"), py::arg("comm"),
           py::arg("device"), py::arg("stream"))
      .def_property_readonly("rank", &NcclGroup::rank)
      .def_property_readonly("size", &NcclGroup::size)
      .def("issue", &issue, py::arg("lanes").noconvert())
      .def("issue_records", &issue_records, py::arg("header"), py::arg("slots"),
           py::arg("endpoints"))
      .def("ready", &NcclGroup::ready)
      .def("result", &result, py::arg("deadline_s"), py::arg("slot_type"));
});

}  // namespace
}  // namespace hicache::bindings::nccl_group
