// hicache_ext._C: the pages of one pool on the disk, for hicache_ext.storage.segment_store.
#include <fcntl.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "hicache/check.h"
#include "hicache/storage/page_pool.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::page_pool {
namespace {

using storage::PageKey;

std::vector<PageKey> keys_of(const std::string& pool, const py::sequence& objects) {
  std::vector<PageKey> keys(objects.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    const py::object object = objects[i];
    char* data = nullptr;
    Py_ssize_t num_bytes = 0;
    if (PyBytes_AsStringAndSize(object.ptr(), &data, &num_bytes) != 0)
      throw py::error_already_set();
    HICACHE_CHECK(kStorage, num_bytes == sizeof(PageKey), "pool '", pool, "': key at position ", i,
                  " is ", num_bytes, " bytes, expected ", sizeof(PageKey));
    std::memcpy(&keys[i], data, sizeof(PageKey));
  }
  return keys;
}

// The pages of a call, held until its end.
class LentPages {
 public:
  LentPages(const std::string& pool, const py::sequence& objects, size_t num_keys,
            uint64_t page_bytes, IoOp op) {
    HICACHE_CHECK(kStorage, objects.size() == num_keys, "pool '", pool, "': ", num_keys,
                  " keys but ", objects.size(), " pages");
    views_.reserve(num_keys);
    for (size_t i = 0; i < num_keys; ++i) {
      const py::object object = objects[i];
      Py_buffer view;
      if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_FULL_RO) != 0)
        throw py::error_already_set();
      views_.emplace_back(view);
      const bool is_contiguous = PyBuffer_IsContiguous(&view, 'C') != 0;
      HICACHE_CHECK(kStorage, static_cast<uint64_t>(view.len) == page_bytes && is_contiguous,
                    "pool '", pool, "': buffer at position ", i, " is ", view.len,
                    " bytes (contiguous=", is_contiguous ? "True" : "False", "), expected ",
                    page_bytes, " contiguous");
      HICACHE_CHECK(kStorage, op == IoOp::kWrite || view.readonly == 0, "pool '", pool,
                    "': buffer at position ", i, " is read-only");
      pages_.push_back(static_cast<std::byte*>(view.buf));
    }
  }
  std::byte* const* data() const { return pages_.data(); }

 private:
  struct View {
    explicit View(const Py_buffer& view) : buffer(view) {}
    View(View&& other) noexcept : buffer(other.buffer) { other.buffer.obj = nullptr; }
    ~View() { PyBuffer_Release(&buffer); }
    Py_buffer buffer;
  };
  std::vector<View> views_;
  std::vector<std::byte*> pages_;
};

// A deadline, and a byte that turns 1 when the call is cancelled; its memory is held.
class LentLimit {
 public:
  LentLimit(int64_t deadline_ns, const py::object& cancelled) {
    limit_.deadline_ns = deadline_ns;
    if (cancelled.is_none()) return;
    if (PyObject_GetBuffer(cancelled.ptr(), &flag_, PyBUF_SIMPLE) != 0)
      throw py::error_already_set();
    static_assert(sizeof(std::atomic<bool>) == 1 && std::atomic<bool>::is_always_lock_free);
    limit_.cancelled = static_cast<const std::atomic<bool>*>(flag_.buf);
  }
  ~LentLimit() {
    if (limit_.cancelled != nullptr) PyBuffer_Release(&flag_);
  }
  LentLimit(const LentLimit&) = delete;
  LentLimit& operator=(const LentLimit&) = delete;
  const IoLimit& limit() const { return limit_; }

 private:
  IoLimit limit_;
  Py_buffer flag_{};
};

py::list flags_of(const std::unique_ptr<bool[]>& flags, size_t num_flags) {
  py::list out(num_flags);
  for (size_t i = 0; i < num_flags; ++i) out[i] = py::bool_(flags[i]);
  return out;
}

class PoolObject {
 public:
  PoolObject(py::object engine, std::string name, int dir_fd, const std::string& owner,
             uint64_t page_bytes, storage::Durability durability, uint64_t segment_bytes,
             uint64_t max_bytes)
      : engine_(std::move(engine)), name_(std::move(name)), page_bytes_(page_bytes) {
    storage::PoolConfig config{{page_bytes, {}}, durability, segment_bytes, max_bytes};
    HICACHE_CHECK(kStorage, owner.size() == config.format.owner.size(), "owner of ", owner.size(),
                  " bytes");
    std::memcpy(config.format.owner.data(), owner.data(), owner.size());
    auto& native = engine_.cast<IoEngine&>();
    const py::gil_scoped_release unlocked;
    storage::File dir(files_, files_.open(dir_fd, ".", O_RDONLY | O_DIRECTORY, 0));
    HICACHE_CHECK(kStorage, static_cast<bool>(dir), "folder: ", std::strerror(-dir.get()));
    pool_ = std::make_unique<storage::PagePool>(files_, native, std::move(dir), config);
  }

  py::list find(const py::sequence& objects) {
    const std::vector<PageKey> keys = keys_of(name_, objects);
    const auto flags = std::make_unique<bool[]>(keys.size());
    {
      const py::gil_scoped_release unlocked;
      pool_->find(keys, flags.get());
    }
    return flags_of(flags, keys.size());
  }

  size_t remove(const py::sequence& objects) {
    const std::vector<PageKey> keys = keys_of(name_, objects);
    const py::gil_scoped_release unlocked;
    return pool_->remove(keys);
  }

  int clear() {
    const py::gil_scoped_release unlocked;
    return -pool_->clear();
  }

  py::dict stats() const {
    storage::PoolStats told;
    {
      const py::gil_scoped_release unlocked;
      told = pool_->stats();
    }
    py::dict out;
    out["num_pages"] = told.num_pages;
    out["num_read_pages"] = told.num_read_pages;
    out["num_missed_pages"] = told.num_missed_pages;
    out["num_written_pages"] = told.num_written_pages;
    out["read_bytes"] = told.num_read_pages * page_bytes_;
    out["written_bytes"] = told.num_written_pages * page_bytes_;
    out["num_corrupt_pages"] = told.num_corrupt_pages;
    out["num_read_errors"] = told.num_read_errors;
    out["num_write_errors"] = told.num_write_errors;
    out["num_evicted_pages"] = told.num_evicted_pages;
    out["num_refused_pages"] = told.num_refused_pages;
    out["segment_bytes"] = told.segment_bytes;
    out["table_bytes"] = told.table_bytes;
    return out;
  }

  int failure() const { return pool_ ? pool_->failure() : 0; }

  // Nobody is in a call, nor comes later.
  void close() {
    auto pool = std::move(pool_);
    const py::gil_scoped_release unlocked;
    pool.reset();
  }

 private:
  friend class LentPart;
  py::object engine_;  // outlives the pool
  storage::Files files_;
  const std::string name_;
  const uint64_t page_bytes_;
  std::unique_ptr<storage::PagePool> pool_;
};

// (pool, keys, pages) of a call about several pools.
class LentPart {
 public:
  LentPart(IoOp op, PoolObject& object, const py::sequence& keys, const py::sequence& pages)
      : pool_(object.pool_.get()),
        keys_(keys_of(object.name_, keys)),
        pages_(object.name_, pages, keys_.size(), object.page_bytes_, op),
        is_done_(std::make_unique<bool[]>(keys_.size())),
        is_new_(std::make_unique<bool[]>(keys_.size())) {}

  storage::PoolPart part() const {
    return {pool_, keys_, pages_.data(), is_done_.get(), is_new_.get()};
  }
  py::list are_done() const { return flags_of(is_done_, keys_.size()); }
  py::list are_new() const { return flags_of(is_new_, keys_.size()); }

 private:
  storage::PagePool* pool_;
  std::vector<PageKey> keys_;
  LentPages pages_;
  std::unique_ptr<bool[]> is_done_, is_new_;
};

std::vector<LentPart> run_all(IoOp op, const py::sequence& objects, int64_t deadline_ns,
                              const py::object& cancelled) {
  std::vector<LentPart> lent;
  lent.reserve(objects.size());
  for (const py::handle object : objects) {
    const auto triple = py::reinterpret_borrow<py::sequence>(object);
    lent.emplace_back(op, triple[0].cast<PoolObject&>(), triple[1].cast<py::sequence>(),
                      triple[2].cast<py::sequence>());
  }
  std::vector<storage::PoolPart> parts;
  for (const LentPart& part : lent) parts.push_back(part.part());
  const LentLimit limit(deadline_ns, cancelled);
  const py::gil_scoped_release unlocked;
  if (op == IoOp::kRead)
    storage::PagePool::read(parts, limit.limit());
  else
    storage::PagePool::write(parts, limit.limit());
  return lent;
}

py::list read_pools(const py::sequence& parts, int64_t deadline_ns, const py::object& cancelled) {
  py::list out;
  for (const LentPart& part : run_all(IoOp::kRead, parts, deadline_ns, cancelled))
    out.append(part.are_done());
  return out;
}

py::list write_pools(const py::sequence& parts, int64_t deadline_ns, const py::object& cancelled) {
  py::list out;
  for (const LentPart& part : run_all(IoOp::kWrite, parts, deadline_ns, cancelled))
    out.append(py::make_tuple(part.are_done(), part.are_new()));
  return out;
}

Registrar registrar([](py::module_& m) {
  using storage::Durability;
  py::enum_<Durability>(m, "PoolDurability")
      .value("NONE", Durability::kNone)
      .value("BATCH", Durability::kBatch)
      .value("PAGE", Durability::kPage);
  py::class_<PoolObject>(m, "PagePool")
      .def(py::init<py::object, std::string, int, const std::string&, uint64_t, Durability,
                    uint64_t, uint64_t>(),
           py::arg("engine"), py::kw_only(), py::arg("name"), py::arg("dir_fd"), py::arg("owner"),
           py::arg("page_bytes"), py::arg("durability"), py::arg("segment_bytes"),
           py::arg("max_bytes"))
      .def("find", &PoolObject::find, py::arg("keys"))
      .def("remove", &PoolObject::remove, py::arg("keys"))
      .def("clear", &PoolObject::clear)
      .def("stats", &PoolObject::stats)
      .def_property_readonly("failure", &PoolObject::failure)
      .def("close", &PoolObject::close);
  m.def("read_pools", &read_pools, py::arg("parts"), py::kw_only(), py::arg("deadline_ns"),
        py::arg("cancelled"));
  m.def("write_pools", &write_pools, py::arg("parts"), py::kw_only(), py::arg("deadline_ns"),
        py::arg("cancelled"));
});

}  // namespace
}  // namespace hicache::bindings::page_pool
