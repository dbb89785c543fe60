#include "hicache/storage/index_follower.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace hicache::storage {
namespace {

constexpr uint64_t kBlockRecords = 8192;

}  // namespace

int IndexFollower::follow(Files& files, int shard_dir, const PageFormat& format, uint64_t shard,
                          IndexSink& sink) {
  struct stat now;
  if (const int error = Files::stat_in(shard_dir, kIndexName, &now); error < 0) return error;
  if (now.st_ino != inode_) {
    if (!S_ISREG(now.st_mode)) {
      refuse(now.st_ino, sink);
      return 0;
    }
    if (const int error = restart(files, shard_dir, format, shard, sink); error < 0) return error;
    if (const int error = Files::stat(file_.get(), &now); error < 0) return error;
  }
  if (!is_sound_) return 0;
  const uint64_t end = num_whole_records(static_cast<uint64_t>(now.st_size));
  std::vector<Record> block;
  while (num_records_ < end) {
    block.resize(std::min(kBlockRecords, end - num_records_));
    const int error = read_all(files, file_.get(), block.data(), block.size() * sizeof(Record),
                               record_offset(num_records_));
    if (error < 0) return error;
    for (const Record& record : block) {
      const bool is_good = is_valid(record, header_, num_records_++);
      if (is_good) {
        sink.record(record);
      } else {
        ++num_corrupt_;
        sink.corrupt();
      }
    }
  }
  return 0;
}

int IndexFollower::restart(Files& files, int shard_dir, const PageFormat& format, uint64_t shard,
                           IndexSink& sink) {
  File file(files, files.open(shard_dir, kIndexName, O_RDONLY, 0));
  if (!file) return file.get();
  struct stat found;
  if (const int error = Files::stat(file.get(), &found); error < 0) return error;
  IndexHeader header;
  const int error = read_all(files, file.get(), &header, sizeof(header), 0);
  if (error < 0 && error != -ENODATA && error != -EISDIR) return error;
  if (error < 0 || !is_valid(header, format, shard)) {
    refuse(found.st_ino, sink);
    return 0;
  }
  file_ = std::move(file);
  inode_ = found.st_ino;
  header_ = header;
  num_records_ = num_corrupt_ = 0;
  is_sound_ = true;
  sink.restart(num_whole_records(static_cast<uint64_t>(found.st_size)));
  return 0;
}

void IndexFollower::refuse(ino_t inode, IndexSink& sink) {
  inode_ = inode;  // it is not looked at again, unless another takes its place
  is_sound_ = false;
  sink.restart(0);
  sink.corrupt();
}

}  // namespace hicache::storage
