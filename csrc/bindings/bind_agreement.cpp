// Python <-> lanes: TickHeader and SlotState tuples in, AgreedSlot tuples out. The format itself is
// lanes.h.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <vector>

#include "bytes_view.h"
#include "hicache/check.h"
#include "hicache/lanes_unpack.h"
#include "lane_objects.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::agreement {
namespace {

using Lanes = py::array_t<int64_t, py::array::c_style>;

// Of hicache_ext.agreement.schema.
constexpr Py_ssize_t kHeaderFields = 7;  // TickHeader
constexpr Py_ssize_t kStateFields = 7;   // SlotState

LaneSchema make_schema(int64_t hash, int num_pools, int num_slots, int num_endpoints) {
  HICACHE_CHECK(kAgreement, 0 <= hash && hash < kLaneLimit, "schema hash=", hash,
                " not in [0, 2^62)");
  HICACHE_CHECK(kAgreement, 0 <= num_pools && num_pools <= kMaxLanePools, "num_pools=", num_pools,
                " not in [0, ", kMaxLanePools, "]");
  HICACHE_CHECK(kAgreement, num_slots >= 1, "num_slots=", num_slots, " < 1");
  HICACHE_CHECK(kAgreement, num_endpoints >= 1, "num_endpoints=", num_endpoints, " < 1");
  return {hash, num_pools, num_slots, num_endpoints};
}

// Where a value comes from, for errors: "epoch" or "slot[3].pages".
struct Field {
  const char* name;
  int64_t slot_idx = -1;

  std::string text() const {
    return slot_idx < 0 ? name : "slot[" + std::to_string(slot_idx) + "]." + name;
  }
};

int64_t as_value(PyObject* object, const Field& field, bool may_be_neutral) {
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
  if (value == -1 && overflow == 0 && PyErr_Occurred()) throw py::error_already_set();
  if (may_be_neutral && value == kLaneNeutral) return value;
  HICACHE_CHECK(kAgreement, overflow == 0 && 0 <= value && value < kLaneLimit, field.text(), "=",
                py::str(object).cast<std::string>(), " not in [0, 2^62)");
  return value;
}

void read_values(PyObject* values, const Field& field, int count, bool may_be_neutral,
                 int64_t* out) {
  HICACHE_CHECK(kAgreement, PyTuple_Check(values) && PyTuple_GET_SIZE(values) == count,
                field.text(), ": want a tuple of ", count, " values, got ",
                py::repr(values).cast<std::string>());
  for (int i = 0; i < count; ++i) {
    out[i] = as_value(PyTuple_GET_ITEM(values, i), field, may_be_neutral);
  }
}

void check_tuple(PyObject* object, Py_ssize_t num_fields, const char* type, const Field& field) {
  HICACHE_CHECK(kAgreement, PyTuple_Check(object) && PyTuple_GET_SIZE(object) == num_fields,
                field.text(), ": want a ", type, ", got ", py::repr(object).cast<std::string>());
}

LaneHeader read_header(const LaneSchema& schema, PyObject* header) {
  check_tuple(header, kHeaderFields, "TickHeader", {"header"});
  const auto value = [&](int i, const char* name) {
    return as_value(PyTuple_GET_ITEM(header, i), {name}, false);
  };
  LaneHeader out{value(0, "epoch"),
                 value(1, "digest"),
                 value(2, "num_ops"),
                 value(3, "calls"),
                 value(4, "num_waiting"),
                 kNobodyAsks,
                 {}};
  PyObject* asking = PyTuple_GET_ITEM(header, 5);
  if (asking != Py_None) {
    out.asking_slot = value(5, "asking_slot");
    HICACHE_CHECK(kAgreement, out.asking_slot < schema.num_slots, "asking_slot=", out.asking_slot,
                  " not in [0, ", schema.num_slots, ")");
  }
  const int num_free = num_free_lanes(schema);
  PyObject* free_pages = PyTuple_GET_ITEM(header, 6);
  if (free_pages == Py_None) {
    std::fill_n(out.free_pages, num_free, kLaneNeutral);
  } else {
    read_values(free_pages, {"free_pages"}, num_free, true, out.free_pages);
  }
  return out;
}

void read_state(PyObject* state, int64_t slot_idx, int num_pools, SlotRecord* out) {
  check_tuple(state, kStateFields, "SlotState", {"state", slot_idx});
  const auto value = [&](int i, const char* name) {
    return as_value(PyTuple_GET_ITEM(state, i), {name, slot_idx}, false);
  };
  const auto pools = [&](int i, const char* name, bool may_be_neutral, int64_t* values) {
    read_values(PyTuple_GET_ITEM(state, i), {name, slot_idx}, num_pools, may_be_neutral, values);
  };
  out->op_id = value(0, "op");
  out->step = value(1, "step");
  out->ready = PyObject_IsTrue(PyTuple_GET_ITEM(state, 2)) == 1;
  out->num_pages = value(3, "pages");
  pools(4, "short", false, out->short_pages);
  pools(5, "hit", true, out->hits);
  out->failed = PyObject_IsTrue(PyTuple_GET_ITEM(state, 6)) == 1;
}

// This rank's lanes from tick to tick.
class LanePacker {
 public:
  explicit LanePacker(const LaneSchema& schema)
      : schema_(schema), lanes_(num_lanes(schema)), endpoints_(schema.num_endpoints) {
    for (int i = 0; i < schema.num_slots; ++i) pack_unused_slot(schema_, slot(i));
  }

  Lanes pack(py::handle header, const py::dict& changes, py::handle endpoints) {
    const LaneHeader values = read_header(schema_, header.ptr());
    read_endpoints(values, endpoints);
    pack_header(schema_, values, lanes_.data());
    pack_changes(changes);
    pack_endpoints(schema_, values, endpoints_.data(), lanes_.data(), 0, 1);
    return Lanes(static_cast<Py_ssize_t>(lanes_.size()), lanes_.data());
  }

 private:
  int64_t* slot(int64_t slot_idx) { return lanes_.data() + slot_base(schema_, slot_idx); }

  // Flags of the first lanes; the others have none.
  void read_endpoints(const LaneHeader& header, py::handle endpoints) {
    const BytesView given(endpoints);
    const bool asks = header.asking_slot != kNobodyAsks;
    const size_t may_be = asks ? endpoints_.size() : 0;
    HICACHE_CHECK(kAgreement, given.size() <= may_be, given.size(), " endpoints, of at most ",
                  may_be, asks ? "" : ": nobody asks");
    std::fill(endpoints_.begin(), endpoints_.end(), uint8_t{0});
    std::copy_n(given.data(), given.size(), endpoints_.begin());
  }

  // A slot: its new state, or None if it is no longer used.
  void pack_changes(const py::dict& changes) {
    PyObject *key, *state;
    for (Py_ssize_t pos = 0; PyDict_Next(changes.ptr(), &pos, &key, &state);) {
      const int64_t slot_idx = PyLong_AsLongLong(key);
      if (slot_idx == -1 && PyErr_Occurred()) throw py::error_already_set();
      HICACHE_CHECK(kAgreement, 0 <= slot_idx && slot_idx < schema_.num_slots, "slot=", slot_idx,
                    " not in [0, ", schema_.num_slots, ")");
      SlotRecord record;
      record.op_id = kNoOp;
      if (state != Py_None) read_state(state, slot_idx, schema_.num_pools, &record);
      pack_slot(schema_, record, slot(slot_idx));
    }
  }

  LaneSchema schema_;
  std::vector<int64_t> lanes_;
  std::vector<uint8_t> endpoints_;
};

void check_lanes(const LaneSchema& schema, const Lanes& lanes, const char* what) {
  HICACHE_CHECK(kAgreement, lanes.ndim() == 1 && lanes.size() == num_lanes(schema), what, " has ",
                lanes.size(), " lanes, the schema has ", num_lanes(schema));
}

// The slots where something is decided, in the order of their ops: the same on every rank.
std::vector<int> settled_slots(const LaneSchema& schema, const int64_t* lanes) {
  std::vector<int> slots;
  for (int i = 0; i < schema.num_slots; ++i) {
    if (is_settled(lanes + slot_base(schema, i))) slots.push_back(i);
  }
  std::sort(slots.begin(), slots.end(), [&](int a, int b) {
    return lanes[slot_base(schema, a) + kOpLane] < lanes[slot_base(schema, b) + kOpLane];
  });
  return slots;
}

// -> ((lane, mine, min, max), {slot: slot_type}, free pages); lane < 0: no mismatch. Only settled
// slots: most ops wait for I/O in most ticks, and an object each would cost more than the tick.
py::tuple lanes_unpack(const LaneSchema& schema, const Lanes& agreed, const Lanes& mine,
                       const py::type& slot_type) {
  check_lanes(schema, agreed, "the result");
  check_lanes(schema, mine, "this rank's vector");
  const int64_t* lanes = agreed.data();
  const LaneVerdict verdict =
      lane_verdict(schema, lanes, mine.data(), find_bad_lane(schema, lanes, mine.data()));
  py::dict slots;
  AgreedRecord record;
  for (const int i : verdict.lane < 0 ? settled_slots(schema, lanes) : std::vector<int>()) {
    agree_slot(schema, lanes + slot_base(schema, i), &record);
    if (lanes[kAskingLane] == i) record.endpoint_idx = find_endpoint(schema, lanes);
    slots[py::int_(i)] = agreed_slot(named_tuple(slot_type), record, schema.num_pools);
  }
  return py::make_tuple(verdict_tuple(verdict), slots, agreed_free_pages(schema, lanes));
}

Registrar registrar([](py::module_& m) {
  py::class_<LaneSchema>(m, "LaneSchema")
      .def(py::init(&make_schema), py::arg("hash"), py::arg("num_pools"), py::arg("num_slots"),
           py::arg("num_endpoints"))
      .def_property_readonly("num_lanes", &num_lanes);
  py::class_<LanePacker>(m, "LanePacker")
      .def(py::init<const LaneSchema&>(), py::arg("schema"))
      .def("pack", &LanePacker::pack, py::arg("header"), py::arg("changes"), py::arg("endpoints"));
  m.def("lanes_unpack", &lanes_unpack, py::arg("schema"), py::arg("agreed").noconvert(),
        py::arg("mine").noconvert(), py::arg("slot_type"));
  m.attr("LANE_NEUTRAL") = kLaneNeutral;
  m.attr("LANE_FORMAT") = kLaneFormat;
  m.attr("MAX_LANE_POOLS") = kMaxLanePools;
});

}  // namespace
}  // namespace hicache::bindings::agreement
