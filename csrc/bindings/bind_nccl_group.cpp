// The tick on a GPU for Python. Waits without the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

#include "hicache/check.h"
#include "hicache/nccl_group.h"
#include "lane_objects.h"
#include "registry.h"
#include "waiting.h"

namespace py = pybind11;

namespace hicache::bindings::nccl_group {
namespace {

using Lanes = py::array_t<int64_t, py::array::c_style>;

std::unique_ptr<NcclGroup> make_group(const NcclLibrary& nccl, const LaneSchema& schema,
                                      uintptr_t comm, int device, uintptr_t stream,
                                      NcclReduction reduction) {
  py::gil_scoped_release no_gil;
  return std::make_unique<NcclGroup>(cuda_api(), nccl, schema, reinterpret_cast<void*>(comm),
                                     device, reinterpret_cast<CudaStream>(stream), reduction);
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

// A replay that fails has started no tick.
void replay(NcclGroup& group, const py::function& launch) {
  group.check_replay();
  launch();
  group.count_replay();
}

bool wait(NcclGroup& group, double max_s) {
  return in_slices(max_s, [&](double slice_s) { return group.wait(slice_s); });
}

// -> (lanes, (lane, mine, min, max), {slot: slot_type})
py::tuple collect(NcclGroup& group, const py::type& slot_type) {
  Lanes lanes(num_lanes(group.schema()));
  std::vector<AgreedRecord> records(group.schema().num_slots);
  const LaneVerdict verdict = group.collect(lanes.mutable_data(), records.data());
  return py::make_tuple(lanes, verdict_tuple(verdict),
                        agreed_slots(group.schema(), verdict, records.data(), slot_type));
}

Registrar registrar([](py::module_& m) {
  py::enum_<NcclReduction>(m, "NcclReduction")
      .value("ALL_REDUCE", NcclReduction::kAllReduce)
      .value("ALL_GATHER", NcclReduction::kAllGather);
  py::class_<NcclGroup>(m, "NcclGroup")
      .def(py::init(&make_group), py::arg("nccl"), py::arg("schema"), py::arg("comm"),
           py::arg("device"), py::arg("stream"), py::arg("reduction"))
      .def_property_readonly("rank", &NcclGroup::rank)
      .def_property_readonly("size", &NcclGroup::size)
      .def_property_readonly("num_issued", &NcclGroup::num_issued)
      .def_property_readonly("num_collected", &NcclGroup::num_collected)
      .def("issue", &issue, py::arg("lanes").noconvert())
      .def("issue_records", &issue_records, py::arg("header"), py::arg("slots"),
           py::arg("endpoints"))
      .def("replay", &replay, py::arg("launch"))
      .def("ready", &NcclGroup::ready)
      .def("wait", &wait, py::arg("max_s"))
      .def("collect", &collect, py::arg("slot_type"));
});

}  // namespace
}  // namespace hicache::bindings::nccl_group
