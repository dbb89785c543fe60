// See copy_upload.h.
#include "copy_upload.h"

#include <cstring>
#include <utility>

namespace hicache {
namespace {

size_t align16(size_t num_bytes) { return (num_bytes + 15) / 16 * 16; }

}  // namespace

Upload::~Upload() {
  if (block_.pinned != nullptr) resources_.give_block(device_, block_);
}

void Upload::add(const void* data, size_t num_bytes, OnDevice on_device) {
  if (num_bytes > 0) items_.push_back({data, num_bytes, std::move(on_device)});
}

void Upload::add_ids(CopyParams& part) {
  for (PageIds* ids : {&part.src_ids, &part.dst_ids}) {
    if (ids->place == IdPlace::kDevice) continue;
    const int64_t num_bytes = part.num_positions * static_cast<int64_t>(ids->width);
    add(ids->data, static_cast<size_t>(num_bytes),
        [ids](const std::byte* at) { *ids = {at, ids->width, IdPlace::kDevice}; });
  }
}

void Upload::add_planes(CopyParams& part) {
  const auto add_table = [this](const uint64_t*& table, size_t count) {
    if (table == nullptr) return;
    add(table, count * sizeof(uint64_t),
        [&table](const std::byte* at) { table = reinterpret_cast<const uint64_t*>(at); });
  };
  add_table(part.src_planes, num_planes(part.plan, CopySide::kSource));
  add_table(part.dst_planes, num_planes(part.plan, CopySide::kDestination));
}

void Upload::send(CudaApi& cuda, CudaStream stream) {
  size_t num_bytes = 0;
  for (const Item& item : items_) num_bytes += align16(item.num_bytes);
  if (num_bytes == 0) return;
  fetched_at_ = num_bytes;
  block_ = resources_.take_block(device_, num_bytes + align16(items_.front().num_bytes));
  size_t at = 0;
  for (const Item& item : items_) {
    std::memcpy(block_.pinned + at, item.data, item.num_bytes);
    item.on_device(block_.device + at);
    at += align16(item.num_bytes);
  }
  cuda.copy(block_.device, block_.pinned, num_bytes, stream);
}

void Upload::fetch_first(CudaApi& cuda, CudaStream stream) {
  cuda.copy(block_.pinned + fetched_at_, block_.device, items_.front().num_bytes, stream);
}

}  // namespace hicache
