// The small things that the kernels of a copy read, in one block: guard, page ids, plane tables.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "copy_resources.h"
#include "hicache/copy_kernel.h"

namespace hicache {

class Upload {
 public:
  Upload(CopyResources& resources, int device) : resources_(resources), device_(device) {}
  // Whoever destroys it has waited for what reads the block.
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  // send() copies `data` and calls on_device with where it will be on the device.
  using OnDevice = std::function<void(std::byte*)>;
  void add(const void* data, size_t num_bytes, OnDevice on_device);
  // What of them lies on the host; the part must stay where it is until send().
  void add_ids(CopyParams& part);
  void add_planes(CopyParams& part);

  void send(CudaApi& cuda, CudaStream stream);
  // What was added first comes back, and can be read once the stream is there. Not to where it came
  // from: a graph sends it again at each replay.
  void fetch_first(CudaApi& cuda, CudaStream stream);
  const std::byte* fetched() const { return block_.pinned + fetched_at_; }

 private:
  struct Item {
    const void* data;
    size_t num_bytes;
    OnDevice on_device;
  };

  CopyResources& resources_;
  int device_;
  std::vector<Item> items_;
  UploadBlock block_;
  size_t fetched_at_ = 0;
};

}  // namespace hicache
