// A communicator that this process makes and ends, and what its ranks tell each other before ticks.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "hicache/cuda_api.h"
#include "hicache/nccl.h"

namespace hicache {

class NcclComm {
 public:
  // Starts to meet the other ranks; `device` is this rank's.
  NcclComm(std::shared_ptr<CudaApi> cuda, const NcclLibrary& nccl, const NcclId& id, int rank,
           int size, int device);
  ~NcclComm();  // abort(), unless it has ended
  NcclComm(const NcclComm&) = delete;
  NcclComm& operator=(const NcclComm&) = delete;

  // Whether all ranks have come, after at most `max_s`.
  bool wait(double max_s) const;
  void* get() const { return comm_; }
  // destroy() waits for what the communicator still does, abort() gives it up. Null from then on.
  void destroy();
  void abort();

 private:
  std::shared_ptr<CudaApi> cuda_;
  NcclLibrary nccl_;
  int device_;
  void* comm_;
};

// One row of a few numbers from each rank, whatever their schemas are.
class NcclExchange {
 public:
  NcclExchange(std::shared_ptr<CudaApi> cuda, const NcclLibrary& nccl, void* comm, int device,
               CudaStream stream, const std::vector<int64_t>& row);
  ~NcclExchange();
  NcclExchange(const NcclExchange&) = delete;
  NcclExchange& operator=(const NcclExchange&) = delete;

  // Whether all rows are there, after at most `max_s`. Error(kAgreement): a peer is lost.
  bool wait(double max_s);
  // By rank, when they are there.
  std::vector<std::vector<int64_t>> rows() const;

 private:
  struct Buffers;

  std::shared_ptr<CudaApi> cuda_;
  NcclLibrary nccl_;
  void* comm_;
  CudaStream stream_;
  int size_;
  size_t row_size_;
  std::unique_ptr<Buffers> buffers_;
  CudaEvent done_;
};

}  // namespace hicache
