// Agreed records as Python objects, shared by the groups that unpack on the CPU and on the GPU.
#pragma once

#include <pybind11/pybind11.h>

#include "hicache/check.h"
#include "hicache/lanes_unpack.h"

namespace hicache::bindings {

inline PyObject* own(PyObject* object) {
  if (object == nullptr) throw pybind11::error_already_set();
  return object;
}

inline PyObject* pool_tuple(const int64_t* values, int num_pools) {
  PyObject* out = own(PyTuple_New(num_pools));
  for (int i = 0; i < num_pools; ++i) PyTuple_SET_ITEM(out, i, own(PyLong_FromLongLong(values[i])));
  return out;
}

// An AgreedSlot, filled in place as tuple.__new__ does for a subclass: a named tuple's own
// constructor is Python code, and costs more than the tick.
inline pybind11::object agreed_slot(PyTypeObject* type, const AgreedRecord& r, int num_pools) {
  auto slot = pybind11::reinterpret_steal<pybind11::object>(own(type->tp_alloc(type, 8)));
  int next = 0;
  const auto add = [&](PyObject* value) { PyTuple_SET_ITEM(slot.ptr(), next++, own(value)); };
  add(PyLong_FromLongLong(r.op_id));
  add(PyLong_FromLongLong(r.step));
  add(PyLong_FromLongLong(r.min_pages));
  add(PyLong_FromLongLong(r.max_pages));
  add(pool_tuple(r.short_pages, num_pools));
  add(pool_tuple(r.hits, num_pools));
  add(PyBool_FromLong(r.any_failed != 0));
  add(PyLong_FromLongLong(r.endpoint_idx));
  return slot;
}

inline pybind11::tuple verdict_tuple(const LaneVerdict& verdict) {
  return pybind11::make_tuple(verdict.lane, verdict.mine, verdict.min, verdict.max);
}

inline PyTypeObject* named_tuple(const pybind11::type& slot_type) {
  auto* type = reinterpret_cast<PyTypeObject*>(slot_type.ptr());
  HICACHE_CHECK(kAgreement, PyType_IsSubtype(type, &PyTuple_Type), "slot_type is no named tuple");
  return type;
}

// The fewest free pages of any rank, tier by tier; kLaneNeutral where no rank has told.
inline pybind11::object agreed_free_pages(const LaneSchema& schema, const int64_t* agreed) {
  return pybind11::reinterpret_steal<pybind11::object>(
      pool_tuple(agreed + kFreeLanes, num_free_lanes(schema)));
}

// {slot: slot_type} of the settled slots; empty if the verdict is bad.
inline pybind11::dict agreed_slots(const LaneSchema& schema, const LaneVerdict& verdict,
                                   const AgreedRecord* records, const pybind11::type& slot_type) {
  PyTypeObject* type = named_tuple(slot_type);
  pybind11::dict slots;
  for (int slot_idx = 0; verdict.lane < 0 && slot_idx < schema.num_slots; ++slot_idx) {
    const AgreedRecord& record = records[slot_idx];
    if (record.op_id == kNoOp || (!record.all_ready && !record.any_failed)) continue;
    slots[pybind11::int_(slot_idx)] = agreed_slot(type, record, schema.num_pools);
  }
  return slots;
}

}  // namespace hicache::bindings
