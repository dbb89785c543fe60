// The shared-memory group for Python. Waiting is done without the GIL, in slices, so that Ctrl-C
// and other threads get through.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <atomic>
#include <string>

#include "hicache/check.h"
#include "hicache/shm_group.h"
#include "registry.h"
#include "waiting.h"

namespace py = pybind11;

namespace hicache::bindings::shm_group {
namespace {

using Lanes = py::array_t<int64_t, py::array::c_style>;

// Waiting for its turn would not help a second thread: the two ticks could come in another order on
// another rank.
class OneCaller {
 public:
  OneCaller(std::atomic_flag& inside, int rank, const char* method) : inside_(inside) {
    HICACHE_CHECK(kAgreement, !inside.test_and_set(std::memory_order_acquire), "rank ", rank, ": ",
                  method, "() in thread ", ::gettid(),
                  " while another thread is inside the group: ticks are of one thread");
  }
  ~OneCaller() { inside_.clear(std::memory_order_release); }
  OneCaller(const OneCaller&) = delete;
  OneCaller& operator=(const OneCaller&) = delete;

 private:
  std::atomic_flag& inside_;
};

class BoundShmGroup {
 public:
  BoundShmGroup(const std::string& name, int rank, int size, int64_t num_lanes, double deadline_s)
      : group_(name, rank, size, num_lanes) {
    const bool met = in_slices(deadline_s, [&](double max_s) { return group_.attach(max_s); });
    HICACHE_CHECK(kAgreement, met, group_.describe_absent(), " after ", deadline_s, " s");
  }

  void issue(const Lanes& lanes) {
    const OneCaller turn(inside_, rank(), "issue");
    HICACHE_CHECK(kAgreement, lanes.ndim() == 1 && lanes.size() == group_.num_lanes(), "rank ",
                  rank(), " issued ", lanes.size(), " lanes, the group has ", group_.num_lanes());
    group_.issue(lanes.data());
  }

  bool ready() {
    const OneCaller turn(inside_, rank(), "ready");
    return group_.ready();
  }

  Lanes result(double deadline_s) {
    const OneCaller turn(inside_, rank(), "result");
    // The usual case, everyone in time, costs no release of the GIL.
    const bool there =
        group_.wait(0) || in_slices(deadline_s, [&](double max_s) { return group_.wait(max_s); });
    HICACHE_CHECK(kAgreement, there, group_.describe_late(deadline_s));
    Lanes out(group_.num_lanes());
    group_.collect(out.mutable_data());
    return out;
  }

  void note(const std::string& text) {
    const OneCaller turn(inside_, rank(), "note");
    group_.note(text);
  }

  void close() {
    const OneCaller turn(inside_, rank(), "close");
    group_.close();
  }

  int rank() const { return group_.rank(); }
  int size() const { return group_.size(); }

 private:
  ShmGroup group_;
  std::atomic_flag inside_;
};

Registrar registrar([](py::module_& m) {
  py::class_<BoundShmGroup>(m, "ShmGroup")
      .def(py::init<const std::string&, int, int, int64_t, double>(), py::arg("name"),
           py::arg("rank"), py::arg("size"), py::arg("num_lanes"), py::kw_only(),
           py::arg("deadline_s") = 30.0)
      .def_property_readonly("rank", &BoundShmGroup::rank)
      .def_property_readonly("size", &BoundShmGroup::size)
      .def("issue", &BoundShmGroup::issue, py::arg("lanes").noconvert())
      .def("ready", &BoundShmGroup::ready)
      .def("result", &BoundShmGroup::result, py::arg("deadline_s"))
      .def("note", &BoundShmGroup::note, py::arg("text"))
      .def("close", &BoundShmGroup::close);
});

}  // namespace
}  // namespace hicache::bindings::shm_group
