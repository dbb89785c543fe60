#include "tree_objects.h"

#include <algorithm>
#include <cstring>

#include "hicache/check.h"

namespace hicache::bindings {
namespace {

// A one-dimensional run of integers in a buffer; nullptr data: the object is none.
class IntBuffer {
 public:
  explicit IntBuffer(py::handle object) {
    // Tensors on the CPU lend an array. Those that cannot are read by the Python tree's ways.
    if (!PyObject_CheckBuffer(object.ptr()) && py::hasattr(object, "numpy")) {
      PyObject* array = PyObject_CallMethod(object.ptr(), "numpy", nullptr);
      if (!array) PyErr_Clear();
      owner_ = py::reinterpret_steal<py::object>(array);
      if (array) object = owner_;
    }
    if (!PyObject_CheckBuffer(object.ptr())) return;
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
      PyErr_Clear();
      return;
    }
    const char* format = view_.format ? view_.format : "B";
    is_signed_ = std::strchr("ilq", format[0]) != nullptr;
    is_int_ = view_.ndim == 1 && format[1] == 0 && std::strchr("ilqILQ", format[0]);
  }
  ~IntBuffer() {
    if (view_.obj) PyBuffer_Release(&view_);
  }
  IntBuffer(const IntBuffer&) = delete;
  IntBuffer& operator=(const IntBuffer&) = delete;

  // Calls fn(data, size, stride in bytes) with a pointer of the type; false if it holds no ints.
  template <typename Fn>
  bool read(Fn&& fn) const {
    if (!is_int_) return false;
    const auto size = static_cast<size_t>(view_.shape[0]);
    const auto stride = view_.strides[0];
    if (view_.itemsize == 8) {
      is_signed_ ? fn(static_cast<const int64_t*>(view_.buf), size, stride)
                 : fn(static_cast<const uint64_t*>(view_.buf), size, stride);
    } else {
      is_signed_ ? fn(static_cast<const int32_t*>(view_.buf), size, stride)
                 : fn(static_cast<const uint32_t*>(view_.buf), size, stride);
    }
    return true;
  }

 private:
  py::object owner_;
  Py_buffer view_ = {};
  bool is_int_ = false, is_signed_ = false;
};

// Converts to `to`; false if a value does not fit.
template <typename From, typename To>
bool convert(const From* from, size_t size, Py_ssize_t stride, std::vector<To>& to) {
  to.resize(size);
  From outside = 0;  // gathers the bits of all values that To has not
  const auto step = [&](size_t i, From value) {
    to[i] = static_cast<To>(value);
    outside |= value ^ static_cast<From>(to[i]);
    if constexpr (std::is_signed_v<From> != std::is_signed_v<To>)
      outside |= value & std::numeric_limits<std::make_signed_t<From>>::min();
  };
  if (stride == sizeof(From)) {
    for (size_t i = 0; i < size; ++i) step(i, from[i]);
  } else {
    for (size_t i = 0; i < size; ++i)
      step(i, *reinterpret_cast<const From*>(reinterpret_cast<const char*>(from) +
                                             static_cast<Py_ssize_t>(i) * stride));
  }
  return outside == 0;
}

// A list or tuple of exact ints; false if it is none, or if one does not fit 64 bits.
template <typename To>
bool convert_list(py::handle object, std::vector<To>& to) {
  if (!PyList_CheckExact(object.ptr()) && !PyTuple_CheckExact(object.ptr())) return false;
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(object.ptr());
  PyObject** items = PySequence_Fast_ITEMS(object.ptr());
  to.resize(static_cast<size_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    if (!PyLong_CheckExact(items[i])) return false;
    int overflow = 0;
    const int64_t value = PyLong_AsLongLongAndOverflow(items[i], &overflow);
    to[i] = static_cast<To>(value);
    if (overflow || static_cast<int64_t>(to[i]) != value) return false;
  }
  return true;
}

template <typename To>
bool convert_any(py::handle object, std::vector<To>& to) {
  if (convert_list(object, to)) return true;
  bool fits = false;
  const bool is_read =
      IntBuffer(object).read([&](const auto* data, size_t size, Py_ssize_t stride) {
        fits = convert(data, size, stride, to);
      });
  return is_read && fits;
}

bool is_packed(py::handle tokens) {
  PyObject* object = tokens.ptr();
  return PyBytes_Check(object) || PyByteArray_Check(object) || PyMemoryView_Check(object);
}

// [a b c] -> [(a b) (b c)]
std::vector<uint32_t> pairs_of(const std::vector<uint32_t>& words) {
  std::vector<uint32_t> pairs;
  pairs.reserve(2 * words.size());
  for (size_t i = 1; i < words.size(); ++i) pairs.insert(pairs.end(), {words[i - 1], words[i]});
  return pairs;
}

}  // namespace

void raise_tree_error(const std::string& message) { raise(ErrorKind::kTree, message); }

TokensArg::TokensArg(const radix::TreeState& state, py::handle tokens) {
  const int64_t unit_words = state.page_words / state.page_size;
  if (borrow_bytes(tokens, unit_words)) return;
  if (!is_packed(tokens) && copy(tokens, unit_words)) return;
  // Not plain: the Python tree reads it, or says what is wrong.
  const py::object unit = py::module_::import("hicache_ext.tree.key")
                              .attr("KeyUnit")
                              .attr(unit_words == 1 ? "TOKEN" : "BIGRAM");
  const py::bytes packed = unit.attr("key")(tokens);
  const std::string_view bytes = packed;
  words_.resize(bytes.size() / sizeof(uint32_t));
  std::memcpy(words_.data(), bytes.data(), bytes.size());
  view_ = words_;
}

TokensArg::~TokensArg() {
  if (buffer_.obj) PyBuffer_Release(&buffer_);
}

bool TokensArg::borrow_bytes(py::handle tokens, int64_t unit_words) {
  if (!is_packed(tokens)) return false;
  if (PyObject_GetBuffer(tokens.ptr(), &buffer_, PyBUF_SIMPLE) != 0) {
    PyErr_Clear();
    return false;
  }
  const auto address = reinterpret_cast<uintptr_t>(buffer_.buf);
  const auto unit_bytes = static_cast<Py_ssize_t>(sizeof(uint32_t)) * unit_words;
  if (buffer_.len % unit_bytes || address % alignof(uint32_t)) return false;
  view_ = {static_cast<const uint32_t*>(buffer_.buf), buffer_.len / sizeof(uint32_t)};
  return true;
}

bool TokensArg::copy(py::handle tokens, int64_t unit_words) {
  if (!convert_any(tokens, words_)) return false;
  if (unit_words == 2) words_ = pairs_of(words_);
  view_ = words_;
  return true;
}

radix::Ids ids_arg(py::handle object, const IdsRule& rule) {
  radix::Ids ids;
  const auto is_good = [&] {
    return (rule.num_pages < 0 || static_cast<int64_t>(ids.size()) == rule.num_pages) &&
           (ids.empty() || *std::min_element(ids.begin(), ids.end()) >= rule.lowest);
  };
  if (convert_any(object, ids) && is_good()) return ids;
  const py::object num_pages =
      rule.num_pages < 0 ? py::none() : py::object(py::int_(rule.num_pages));
  const py::list checked =
      py::module_::import("hicache_ext.tree.pages")
          .attr("checked_ids")(object, rule.what, num_pages, py::arg("lowest") = rule.lowest);
  convert_list(checked, ids);
  return ids;
}

int64_t clamped(py::handle object) {
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!number) throw py::error_already_set();
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  if (overflow == 0) return value;
  return overflow > 0 ? INT64_MAX : INT64_MIN;
}

radix::NodeId node_arg(const radix::TreeState& state, py::handle node) {
  HICACHE_CHECK(kTree, PyLong_Check(node.ptr()), "node ", std::string(py::str(node)),
                " does not exist (next id ", state.next_id, ")");
  return clamped(node);
}

std::string namespace_arg(py::handle name_space) {
  HICACHE_CHECK(kTree, PyBytes_Check(name_space.ptr()), "a namespace is bytes, got ",
                std::string(py::repr(name_space)));
  return py::reinterpret_borrow<py::bytes>(name_space);
}

int component_arg(const radix::TreeState& state, py::handle name) {
  if (PyUnicode_Check(name.ptr())) {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(name.ptr(), &size);
    if (!text) throw py::error_already_set();
    for (const auto& component : state.components)
      if (component->name == std::string_view(text, static_cast<size_t>(size)))
        return component->idx;
  }
  py::list known;
  for (const auto& component : state.components) known.append(component->name);
  raise_tree_error("component " + std::string(py::repr(name)) + " is unknown; this tree has " +
                   std::string(py::repr(known)));
}

std::vector<int64_t> counts_arg(const radix::TreeState& state, py::handle counts, int64_t most,
                                const RefuseCount& refuse) {
  std::vector<int64_t> values(state.components.size(), 0);
  const auto items = py::reinterpret_steal<py::list>(PyMapping_Items(counts.ptr()));
  if (!items) throw py::error_already_set();
  for (const auto& item : items) {
    const auto pair = py::reinterpret_borrow<py::tuple>(item);
    const py::object count = pair[1];
    int64_t& value = values[component_arg(state, pair[0])];
    const bool is_whole = PyIndex_Check(count.ptr()) && !PyBool_Check(count.ptr());
    value = is_whole ? clamped(count) : -1;
    if (value < 0 || value > most) refuse(py::str(count), pair[0]);
  }
  return values;
}

py::list to_list(radix::IdsView ids) {
  py::list list(ids.size());
  for (size_t i = 0; i < ids.size(); ++i)
    PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), PyLong_FromLongLong(ids[i]));
  return list;
}

py::dict to_dict(const radix::TreeState& state, const radix::IdsByComponent& ids) {
  py::dict dict;
  for (const auto& component : state.components)
    dict[py::str(component->name)] = to_list(ids[component->idx]);
  return dict;
}

py::tuple to_tuple(const std::vector<int64_t>& values) {
  py::tuple tuple(values.size());
  for (size_t i = 0; i < values.size(); ++i) tuple[i] = values[i];
  return tuple;
}

}  // namespace hicache::bindings
