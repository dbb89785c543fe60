// Python <-> lanes: SlotState tuples in, AgreedSlot tuples out. The format itself is lanes.h.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

#include "hicache/check.h"
#include "hicache/lanes.h"
#include "lane_objects.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::agreement {
namespace {

using Lanes = py::array_t<int64_t, py::array::c_style>;

constexpr Py_ssize_t kStateFields = 7;  // of hicache_ext.agreement.schema.SlotState

LaneSchema make_schema(int64_t hash, int num_pools, int num_slots) {
  HICACHE_CHECK(kAgreement, 0 <= hash && hash < kLaneLimit, "schema hash=", hash,
                " not in [0, 2^62)");
  HICACHE_CHECK(kAgreement, 0 <= num_pools && num_pools <= kMaxLanePools, "num_pools=", num_pools,
                " not in [0, ", kMaxLanePools, "]");
  HICACHE_CHECK(kAgreement, num_slots >= 1, "num_slots=", num_slots, " < 1");
  return {hash, num_pools, num_slots};
}

int64_t as_value(PyObject* object, const char* what, int64_t slot_idx, bool may_be_neutral) {
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
  if (value == -1 && overflow == 0 && PyErr_Occurred()) throw py::error_already_set();
  if (may_be_neutral && value == kLaneNeutral) return value;
  HICACHE_CHECK(kAgreement, overflow == 0 && 0 <= value && value < kLaneLimit, "slot[", slot_idx,
                "].", what, "=", py::str(object).cast<std::string>(), " not in [0, 2^62)");
  return value;
}

void read_pools(PyObject* values, const char* what, int64_t slot_idx, int num_pools,
                bool may_be_neutral, int64_t* out) {
  HICACHE_CHECK(kAgreement, PyTuple_Check(values) && PyTuple_GET_SIZE(values) == num_pools, "slot[",
                slot_idx, "].", what, ": want a tuple of ", num_pools,
                " values, one per pool, got ", py::repr(values).cast<std::string>());
  for (int i = 0; i < num_pools; ++i) {
    out[i] = as_value(PyTuple_GET_ITEM(values, i), what, slot_idx, may_be_neutral);
  }
}

void read_state(PyObject* state, int64_t slot_idx, int num_pools, SlotRecord* out) {
  HICACHE_CHECK(kAgreement, PyTuple_Check(state) && PyTuple_GET_SIZE(state) == kStateFields,
                "slot[", slot_idx, "]: want a SlotState, got ",
                py::repr(state).cast<std::string>());
  out->op_id = as_value(PyTuple_GET_ITEM(state, 0), "op", slot_idx, false);
  out->step = as_value(PyTuple_GET_ITEM(state, 1), "step", slot_idx, false);
  out->ready = PyObject_IsTrue(PyTuple_GET_ITEM(state, 2)) == 1;
  out->num_pages = as_value(PyTuple_GET_ITEM(state, 3), "pages", slot_idx, false);
  read_pools(PyTuple_GET_ITEM(state, 4), "short", slot_idx, num_pools, false, out->short_pages);
  read_pools(PyTuple_GET_ITEM(state, 5), "hit", slot_idx, num_pools, true, out->hits);
  out->failed = PyObject_IsTrue(PyTuple_GET_ITEM(state, 6)) == 1;
}

// This rank's lanes from tick to tick. A slot whose SlotState is the very object of the last tick
// is not read again: tuples do not change.
class LanePacker {
 public:
  explicit LanePacker(const LaneSchema& schema)
      : schema_(schema), lanes_(num_lanes(schema)), said_(schema.num_slots) {
    for (int i = 0; i < schema.num_slots; ++i) pack_unused_slot(schema_, slot(i));
  }

  Lanes pack(int64_t epoch, int64_t digest, const py::dict& slots) {
    HICACHE_CHECK(kAgreement, 0 <= epoch && epoch < kLaneLimit, "epoch=", epoch,
                  " not in [0, 2^62)");
    HICACHE_CHECK(kAgreement, 0 <= digest && digest < kLaneLimit, "digest=", digest,
                  " not in [0, 2^62)");
    pack_header(schema_, {epoch, digest}, lanes_.data());
    ++num_packed_;
    PyObject *key, *state;
    for (Py_ssize_t pos = 0; PyDict_Next(slots.ptr(), &pos, &key, &state);) {
      const int64_t slot_idx = PyLong_AsLongLong(key);
      if (slot_idx == -1 && PyErr_Occurred()) throw py::error_already_set();
      HICACHE_CHECK(kAgreement, 0 <= slot_idx && slot_idx < schema_.num_slots, "slot=", slot_idx,
                    " not in [0, ", schema_.num_slots, ")");
      say(slot_idx, state);
    }
    for (int i = 0; i < schema_.num_slots; ++i) {
      if (!said_[i].state || said_[i].at == num_packed_) continue;
      pack_unused_slot(schema_, slot(i));
      said_[i].state = {};
    }
    return Lanes(static_cast<Py_ssize_t>(lanes_.size()), lanes_.data());
  }

 private:
  struct Said {
    py::object state;
    uint64_t at = 0;  // num_packed_ of the last tick that used the slot
  };

  int64_t* slot(int64_t slot_idx) { return lanes_.data() + slot_base(schema_, slot_idx); }

  void say(int64_t slot_idx, PyObject* state) {
    Said& said = said_[slot_idx];
    if (said.state.ptr() != state) {
      SlotRecord record;
      read_state(state, slot_idx, schema_.num_pools, &record);
      pack_slot(schema_, record, slot(slot_idx));
      said.state = py::reinterpret_borrow<py::object>(state);
    }
    said.at = num_packed_;
  }

  LaneSchema schema_;
  std::vector<int64_t> lanes_;
  std::vector<Said> said_;
  uint64_t num_packed_ = 0;
};

void check_lanes(const LaneSchema& schema, const Lanes& lanes, const char* what) {
  HICACHE_CHECK(kAgreement, lanes.ndim() == 1 && lanes.size() == num_lanes(schema), what, " has ",
                lanes.size(), " lanes, the schema has ", num_lanes(schema));
}

enum class Slots { kUsed, kSettled };

// -> ((lane, mine, min, max), {slot: slot_type}); lane < 0: no mismatch.
template <Slots which>
py::tuple lanes_unpack(const LaneSchema& schema, const Lanes& agreed, const Lanes& mine,
                       const py::type& slot_type) {
  check_lanes(schema, agreed, "the result");
  check_lanes(schema, mine, "this rank's vector");
  const int64_t* lanes = agreed.data();
  const LaneVerdict verdict =
      lane_verdict(schema, lanes, mine.data(), find_bad_lane(schema, lanes, mine.data()));
  py::dict slots;
  AgreedRecord record;
  for (int i = 0; verdict.lane < 0 && i < schema.num_slots; ++i) {
    const int64_t* slot = lanes + slot_base(schema, i);
    if (which == Slots::kSettled ? !is_settled(slot) : slot[kOpLane] == kNoOp) continue;
    agree_slot(schema, slot, &record);
    slots[py::int_(i)] = agreed_slot(named_tuple(slot_type), record, schema.num_pools);
  }
  return py::make_tuple(verdict_tuple(verdict), slots);
}

Registrar registrar([](py::module_& m) {
  py::class_<LaneSchema>(m, "LaneSchema")
      .def(py::init(&make_schema), py::arg("hash"), py::arg("num_pools"), py::arg("num_slots"))
      .def_property_readonly("num_lanes", &num_lanes);
  py::class_<LanePacker>(m, "LanePacker")
      .def(py::init<const LaneSchema&>(), py::arg("schema"))
      .def("pack", &LanePacker::pack, py::arg("epoch"), py::arg("digest"), py::arg("slots"));
  m.def("lanes_unpack", &lanes_unpack<Slots::kUsed>, py::arg("schema"),
        py::arg("agreed").noconvert(), py::arg("mine").noconvert(), py::arg("slot_type"));
  m.def("lanes_unpack_settled", &lanes_unpack<Slots::kSettled>, py::arg("schema"),
        py::arg("agreed").noconvert(), py::arg("mine").noconvert(), py::arg("slot_type"));
  m.attr("LANE_NEUTRAL") = kLaneNeutral;
  m.attr("LANE_FORMAT") = kLaneFormat;
  m.attr("MAX_LANE_POOLS") = kMaxLanePools;
});

}  // namespace
}  // namespace hicache::bindings::agreement
