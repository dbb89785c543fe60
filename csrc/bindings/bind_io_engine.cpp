// hicache_ext._C: the I/O engine by itself, for tests, benchmarks and `hicache doctor`.
#include <pybind11/stl.h>

#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "bytes_view.h"
#include "hicache/check.h"
#include "hicache/storage/direct_io.h"
#include "hicache/storage/io_engine.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::io_engine {
namespace {

// The buffers of a batch, held until it has run.
class Lent {
 public:
  explicit Lent(const py::sequence& requests) {
    for (const py::handle item : requests) {
      const auto row = item.cast<py::tuple>();
      HICACHE_CHECK(kStorage, row.size() == 4, "request ", requests_.size(),
                    " is no (op, file, offset, buffers)");
      const auto op = row[0].cast<IoOp>();
      std::vector<iovec>& iov = iovs_.emplace_back();
      for (const py::handle buffer : row[3].cast<py::sequence>()) iov.push_back(lend(buffer, op));
      requests_.push_back({op, row[1].cast<int>(), row[2].cast<uint64_t>(), iov.data(),
                           static_cast<uint32_t>(iov.size()),
                           static_cast<uint32_t>(requests_.size())});
    }
  }
  const std::vector<IoRequest>& requests() const { return requests_; }

 private:
  iovec lend(py::handle buffer, IoOp op) {
    const int flags = op == IoOp::kRead ? PyBUF_WRITABLE : PyBUF_SIMPLE;
    const BytesView& view = views_.emplace_back(buffer, flags);
    return {const_cast<std::uint8_t*>(view.data()), view.size()};
  }

  std::deque<BytesView> views_;
  std::deque<std::vector<iovec>> iovs_;
  std::vector<IoRequest> requests_;
};

std::unique_ptr<IoEngine> create(IoPath path, uint64_t max_in_flight_bytes, uint64_t max_call_bytes,
                                 int num_threads) {
  return make_io_engine({path, max_in_flight_bytes, max_call_bytes, num_threads, {}});
}

std::vector<int> run(IoEngine& engine, const py::sequence& requests,
                     std::optional<double> timeout_s) {
  const Lent lent(requests);
  std::vector<int> errors(lent.requests().size(), -1);
  IoLimit limit;
  if (timeout_s.has_value()) {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    limit.deadline_ns =
        std::chrono::nanoseconds(now).count() + static_cast<int64_t>(*timeout_s * 1e9);
  }
  {
    py::gil_scoped_release unlocked;
    engine.run(lent.requests().data(), lent.requests().size(), limit,
               [&](uint32_t position, int error) { errors[position] = error; });
  }
  return errors;
}

py::dict report(const IoEngine& engine) {
  const IoReport told = engine.report();
  py::dict out;
  out["engine"] = told.engine;
  out["engine_reason"] = told.engine_reason;
  out["buffers"] = told.buffers;
  return out;
}

std::pair<bool, std::string> probe(const std::string& folder) {
  const DirectIo direct = probe_direct_io(folder);
  return {direct.works, direct.reason};
}

void add_buffer(IoEngine& engine, std::uintptr_t address, size_t num_bytes) {
  engine.add_buffer(reinterpret_cast<void*>(address), num_bytes);
}

void remove_buffer(IoEngine& engine, std::uintptr_t address) {
  engine.remove_buffer(reinterpret_cast<void*>(address));
}

Registrar registrar([](py::module_& m) {
  py::enum_<IoOp>(m, "IoOp").value("READ", IoOp::kRead).value("WRITE", IoOp::kWrite);
  py::enum_<IoPath>(m, "IoPath")
      .value("AUTO", IoPath::kAuto)
      .value("URING", IoPath::kUring)
      .value("THREADS", IoPath::kThreads);
  const IoConfig config;
  py::class_<IoEngine>(m, "IoEngine")
      .def(py::init(&create), py::arg("path") = IoPath::kAuto, py::kw_only(),
           py::arg("max_in_flight_bytes") = config.max_in_flight_bytes,
           py::arg("max_call_bytes") = config.max_call_bytes,
           py::arg("num_threads") = config.num_threads)
      .def("run", &run, py::arg("requests"), py::kw_only(), py::arg("timeout_s") = py::none())
      .def("sync", &IoEngine::sync, py::arg("file"), py::call_guard<py::gil_scoped_release>())
      .def("add_buffer", &add_buffer, py::arg("address"), py::arg("num_bytes"))
      .def("remove_buffer", &remove_buffer, py::arg("address"))
      .def("add_file", &IoEngine::add_file, py::arg("file"))
      .def("remove_file", &IoEngine::remove_file, py::arg("file"))
      .def_property_readonly("report", &report);
  m.def("probe_direct_io", &probe, py::arg("folder"));
});

}  // namespace
}  // namespace hicache::bindings::io_engine
