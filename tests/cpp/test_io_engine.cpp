// The I/O engines for the sanitizers, with calls that fail, stop short and come back.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "io_pages.h"

using namespace hicache;

namespace {

void round_trip(IoConfig config, bool is_direct) {
  const auto engine = make_io_engine(config);
  const File file(is_direct);
  Pages pages(200);
  engine->add_file(file.fd());
  engine->add_buffer(pages.memory.data(), pages.memory.num_bytes());
  pages.fill();
  auto requests = pages.requests(IoOp::kWrite, file.fd());
  std::shuffle(requests.begin(), requests.end(), std::mt19937(1));
  all_are(run(*engine, requests), 0, "write");
  expect(engine->sync(file.fd()) == 0, "sync");
  pages.wipe();
  requests = pages.requests(IoOp::kRead, file.fd());
  std::shuffle(requests.begin(), requests.end(), std::mt19937(2));
  all_are(run(*engine, requests), 0, "read");
  for (size_t i = 0; i < 200; ++i) expect(pages.is_right(i), "wrong bytes", static_cast<int>(i));
  pages.wipe();
  std::vector<IoRequest> odd;
  for (const IoRequest& request : requests)
    if (request.position % 2 == 1) odd.push_back(request);
  std::vector<int> errors(200, 0);
  engine->run(odd.data(), odd.size(), {}, [&](uint32_t i, int error) { errors[i] = error; });
  all_are(errors, 0, "read with gaps");
  for (size_t i = 0; i < 200; ++i) expect(pages.is_right(i) == (i % 2 == 1), "gaps", int64_t(i));
  all_are(run(*engine, {}), 0, "nothing");
  const iovec none{nullptr, 0};
  all_are(run(*engine, {{IoOp::kRead, file.fd(), 0, &none, 1, 0}}), 0, "zero bytes");
  engine->remove_buffer(pages.memory.data());
  engine->remove_file(file.fd());
  all_are(run(*engine, pages.requests(IoOp::kRead, file.fd())), 0, "after remove");
}

// One request of many calls, and scattered over many iovecs.
void giant(IoConfig config) {
  config.max_call_bytes = 3 * kPage;
  const auto engine = make_io_engine(config);
  const File file(true);
  Pages pages(400);
  pages.fill();
  std::vector<iovec> odd;  // every other page: 200 pieces of memory for adjacent bytes
  for (size_t i = 0; i < 400; i += 2) odd.push_back(pages.iovs[i]);
  const std::vector<IoRequest> write = {
      {IoOp::kWrite, file.fd(), 0, odd.data(), static_cast<uint32_t>(odd.size()), 0}};
  all_are(run(*engine, write), 0, "giant write");
  pages.wipe();
  const iovec whole{pages.memory.data(), 200 * kPage};
  all_are(run(*engine, {{IoOp::kRead, file.fd(), 0, &whole, 1, 0}}), 0, "giant read");
  for (size_t i = 0; i < 200; ++i)
    expect(pages.lease[i][5] == pattern(2 * i, 5), "giant bytes", static_cast<int>(i));
  const iovec beyond{pages.memory.data(), 300 * kPage};
  all_are(run(*engine, {{IoOp::kRead, file.fd(), 0, &beyond, 1, 0}}), ENODATA, "beyond the end");
}

// More places in memory than a call of the kernel takes.
void scattered(IoConfig config) {
  const auto engine = make_io_engine(config);
  const File file(false);
  std::vector<std::byte> from(3000 * 32), to(from.size());
  for (size_t i = 0; i < from.size(); ++i) from[i] = pattern(i, i / 256);
  for (const IoOp op : {IoOp::kWrite, IoOp::kRead}) {
    auto& memory = op == IoOp::kWrite ? from : to;
    std::vector<iovec> iovs;
    for (size_t i = 0; i < 3000; i += 2) iovs.push_back({&memory[i * 32], 32});
    const auto count = static_cast<uint32_t>(iovs.size());
    all_are(run(*engine, {{op, file.fd(), 0, iovs.data(), count, 0}}), 0, "scattered");
  }
  for (size_t i = 0; i < from.size(); ++i)
    expect(to[i] == (i / 32 % 2 == 0 ? from[i] : std::byte{0}), "scattered bytes", int64_t(i));
}

// Every call comes back short, or with EINTR or EAGAIN, now and then.
void hard_times(IoConfig config) {
  std::mutex mutex;
  std::mt19937 rng(7);
  config.fault = [&](const IoCall& call, int64_t result) -> int64_t {
    std::lock_guard lock(mutex);
    switch (rng() % 4) {
      case 0: return -EAGAIN;
      case 1: return -EINTR;
      case 2: return std::min<int64_t>(result, 1 + static_cast<int64_t>(rng() % call.num_bytes));
      default: return result;
    }
  };
  round_trip(config, true);
  round_trip(config, false);
}

void failures(IoConfig config) {
  const File file(true);
  Pages pages(64);
  pages.fill();
  all_are(run(*make_io_engine(config), pages.requests(IoOp::kWrite, file.fd())), 0, "write");
  pages.wipe();
  const uint64_t bad = 21 * kPage;
  config.fault = [bad](const IoCall& call, int64_t result) -> int64_t {
    const bool is_hit = call.offset <= bad && bad < call.offset + call.num_bytes;
    return result >= 0 && is_hit ? -EIO : result;
  };
  const auto engine = make_io_engine(config);
  const std::vector<int> errors = run(*engine, pages.requests(IoOp::kRead, file.fd()));
  for (size_t i = 0; i < 64; ++i) {
    expect(errors[i] == (i == 21 ? EIO : 0), "only the bad page fails", errors[i]);
    if (i != 21) expect(pages.is_right(i), "bytes beside a bad page", static_cast<int>(i));
  }
  all_are(run(*engine, pages.requests(IoOp::kRead, -1)), EBADF, "no file");
  config.fault = [](const IoCall&, int64_t) -> int64_t { return -EAGAIN; };
  all_are(run(*make_io_engine(config), pages.requests(IoOp::kRead, file.fd())), EAGAIN, "for ever");
}

void limits(IoConfig config) {
  config.max_in_flight_bytes = 2 * kPage;
  config.max_call_bytes = kPage;
  std::atomic<bool> cancelled = true;
  std::atomic<int> num_calls = 0;
  config.fault = [&](const IoCall&, int64_t result) -> int64_t {
    if (++num_calls == 10) cancelled = true;
    return result;
  };
  const auto engine = make_io_engine(config);
  const File file(true);
  Pages pages(500);
  pages.fill();
  const auto requests = pages.requests(IoOp::kWrite, file.fd());
  all_are(run(*engine, requests, {0, &cancelled}), ECANCELED, "cancelled before");
  all_are(run(*engine, requests, {1, nullptr}), ECANCELED, "deadline before");
  expect(num_calls == 0, "nothing was started", num_calls);
  cancelled = false;
  const std::vector<int> errors = run(*engine, requests, {0, &cancelled});
  const auto num_ended = std::count(errors.begin(), errors.end(), 0);
  const auto num_cancelled = std::count(errors.begin(), errors.end(), ECANCELED);
  expect(num_ended + num_cancelled == 500, "done or cancelled", num_ended);
  expect(num_ended == num_calls, "what ran is told", num_ended);
  expect(num_ended >= 10 && num_ended <= 12, "two in flight", num_ended);
}

// Which calls are made of a batch: reads first, neighbours together.
void order(IoConfig config) {
  std::mutex mutex;
  std::vector<IoCall> calls;
  config.max_in_flight_bytes = 1;  // one after the other
  config.max_call_bytes = 32 * kPage;
  config.fault = [&](const IoCall& call, int64_t result) -> int64_t {
    std::lock_guard lock(mutex);
    calls.push_back(call);
    return result;
  };
  const auto engine = make_io_engine(config);
  const File other(true), file(true);  // so that the order of files is not that of ops
  Pages pages(100);
  auto requests = pages.requests(IoOp::kWrite, file.fd());
  std::shuffle(requests.begin(), requests.end(), std::mt19937(3));
  all_are(run(*engine, requests), 0, "write");
  expect(calls.size() == 4 && calls[0].num_bytes == 32 * kPage, "joined", int64_t(calls.size()));
  calls.clear();
  requests = pages.requests(IoOp::kWrite, file.fd());
  requests.resize(40);
  for (size_t i = 0; i < requests.size(); i += 2) requests[i].op = IoOp::kRead;
  for (size_t i = 1; i < requests.size(); i += 2) requests[i].file = other.fd();
  all_are(run(*engine, requests), 0, "reads and writes");
  bool is_writing = false;
  for (const IoCall& call : calls) {
    expect(call.op == IoOp::kWrite || !is_writing, "a read after a write");
    is_writing = call.op == IoOp::kWrite;
  }
  expect(is_writing, "there were both");
}

// The same descriptor and the same address come back as another file and other memory.
void reuse(IoConfig config) {
  const auto engine = make_io_engine(config);
  Pages pages(4);
  pages.fill();
  const File first(true), second(true);
  all_are(run(*engine, pages.requests(IoOp::kWrite, second.fd())), 0, "write");
  engine->add_file(first.fd());
  engine->add_buffer(pages.memory.data(), pages.memory.num_bytes());
  all_are(run(*engine, pages.requests(IoOp::kRead, first.fd())), ENODATA, "empty");
  // While the only ring is in use.
  const iovec elsewhere{pages.lease[0], kPage};
  const IoRequest request{IoOp::kRead, second.fd(), 0, &elsewhere, 1, 0};
  engine->run(&request, 1, {}, [&](uint32_t, int error) {
    expect(error == 0, "read of another", error);
    engine->remove_file(first.fd());
    engine->remove_buffer(pages.memory.data());
  });
  expect(::dup2(second.fd(), first.fd()) == first.fd(), "dup2", errno);
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  const void* const mapped =
      ::mmap(pages.memory.data(), pages.memory.num_bytes(), PROT_READ | PROT_WRITE, kFlags, -1, 0);
  expect(mapped == pages.memory.data(), "mmap", errno);
  for (const bool is_added : {false, true}) {
    if (is_added) engine->add_file(first.fd());
    if (is_added) engine->add_buffer(pages.memory.data(), pages.memory.num_bytes());
    pages.wipe();
    all_are(run(*engine, pages.requests(IoOp::kRead, first.fd())), 0, "read");
    for (size_t i = 0; i < 4; ++i) expect(pages.is_right(i), "bytes of the new", is_added);
  }
}

void many_callers(IoConfig config) {
  config.max_in_flight_bytes = 8 * kPage;
  const auto engine = make_io_engine(config);
  const auto call = [&] {
    const File file(true);
    Pages pages(50);
    pages.fill();
    engine->add_file(file.fd());
    engine->add_buffer(pages.memory.data(), pages.memory.num_bytes());
    for (int turn = 0; turn < 5; ++turn) {
      all_are(run(*engine, pages.requests(IoOp::kWrite, file.fd())), 0, "write of many");
      pages.wipe();
      all_are(run(*engine, pages.requests(IoOp::kRead, file.fd())), 0, "read of many");
      for (size_t i = 0; i < 50; ++i) expect(pages.is_right(i), "bytes of many");
    }
    engine->remove_buffer(pages.memory.data());
    engine->remove_file(file.fd());
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) threads.emplace_back(call);
  for (std::thread& thread : threads) thread.join();
}

void leases() {
  AlignedBuffers buffers(5000, 3);
  expect(buffers.buffer_bytes() == kPage, "rounded up", static_cast<int>(buffers.buffer_bytes()));
  std::atomic<int> num_out = 0;
  const auto borrow = [&] {
    for (int turn = 0; turn < 200; ++turn) {
      const auto lease = buffers.take(2);
      const int count = static_cast<int>(lease.size());
      expect((num_out += count) <= 3, "more than there are");
      for (int i = 0; i < count; ++i) std::memset(lease[static_cast<size_t>(i)], turn, 5000);
      num_out -= count;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(borrow);
  for (std::thread& thread : threads) thread.join();
  expect(buffers.take(9).size() == 3, "all came back");
}

}  // namespace

int main() {
  for (const IoPath path : {IoPath::kThreads, IoPath::kAuto}) {
    IoConfig config;
    config.path = path;
    std::printf("%s\n", make_io_engine(config)->report().engine.c_str());
    round_trip(config, true);
    round_trip(config, false);
    giant(config);
    scattered(config);
    hard_times(config);
    failures(config);
    limits(config);
    order(config);
    reuse(config);
    many_callers(config);
  }
  leases();
  std::printf("test_io_engine: %d failed\n", num_failed.load());
  return num_failed == 0 ? 0 : 1;
}
