// Streams and events of an emulated CUDA device. Work runs only when somebody waits, on any stream
// that its events allow to go on: a wait that is missing shows as wrong bytes. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "hicache/cuda_api.h"

namespace hicache {

class EmulatedStreams {
 public:
  // fail_work: this piece of work, counted from 0, fails instead of running; -1: none does.
  // queries_per_step: how often somebody asks in vain until one more thing runs.
  EmulatedStreams(uint32_t seed, int64_t fail_work, int queries_per_step);

  CudaStream add_stream(int device);
  CudaEvent add_event() { return make_event(); }
  int device_of(CudaStream stream) { return at(stream).device; }

  void enqueue(CudaStream stream, std::function<void()> work);
  // Work that runs once `may_run` says so, which is asked again and again.
  void enqueue(CudaStream stream, std::function<bool()> may_run, std::function<void()> work);
  void record(CudaEvent event, CudaStream stream);
  void stream_wait(CudaStream stream, CudaEvent event);

  bool step();  // runs one thing; false: nothing can run
  bool is_done(CudaEvent event);
  bool query(CudaEvent event);  // as is_done(), but who asks again and again gets there
  void run_to(CudaEvent event);
  void run(CudaStream stream);
  bool is_idle(CudaStream stream) { return at(stream).queue.empty(); }
  void run_all();
  bool has_failed() const { return has_failed_; }
  int64_t num_pending() const;  // copies and kernels that have not run

  // What follows on the stream is kept instead of run, until end_capture(); replay() enqueues it.
  void begin_capture(CudaStream stream);
  void end_capture(CudaStream stream);
  void replay(CudaStream stream);
  bool is_capturing(CudaStream stream) { return at(stream).is_capturing; }

 private:
  struct Event {
    uint64_t num_recorded = 0;
    uint64_t num_done = 0;
    bool is_captured = false;
  };
  struct Op {
    std::function<void()> work;  // else a record of the event, or a wait for it
    Event* event;
    uint64_t version;
    bool is_wait;
    std::function<bool()> may_run;  // null: it may
  };
  struct Stream {
    int device = 0;
    bool is_capturing = false;
    std::deque<Op> queue;
    std::vector<Op> captured;
  };

  CudaEvent make_event();
  Stream& at(CudaStream stream);
  Event& at(CudaEvent event);
  void run_until(const std::function<bool()>& is_done);

  std::mt19937 rng_;
  int64_t fail_work_;
  int queries_per_step_;
  int64_t num_works_ = 0;
  int64_t num_queries_ = 0;
  bool has_failed_ = false;
  std::map<CudaStream, Stream> streams_;
  std::map<CudaEvent, Event> events_;
};

std::string show(CudaStream stream);
std::string show(CudaEvent event);

}  // namespace hicache
