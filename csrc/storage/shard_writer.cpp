#include "hicache/storage/shard_writer.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

namespace hicache::storage {
namespace {

constexpr const char* kLockName = "lock";
constexpr const char* kNewIndexName = "index.new";

void seal(std::vector<Record>& records, const IndexHeader& header, uint64_t position) {
  for (Record& record : records) record.check = check_of(record, header, position++);
}

}  // namespace

Record make_record(RecordKind kind, uint64_t shard, uint32_t slot, uint64_t generation,
                   const PageKey& key, const Checksum& checksum) {
  return {kind, slot, shard, generation, key, checksum, /*check=*/0};
}

int ShardWriter::take(Files& files, File dir, uint64_t shard, std::unique_ptr<ShardWriter>* out) {
  File lock(files, files.open(dir.get(), kLockName, O_RDWR | O_CREAT, 0600));
  if (!lock) return lock.get();
  if (const int error = files.lock(lock.get()); error < 0) return error;
  out->reset(new ShardWriter(files, std::move(dir), std::move(lock), shard));
  return 0;
}

int ShardWriter::rewrite(const PageFormat& format, uint64_t segment_bytes,
                         std::vector<Record> records) {
  const IndexHeader header = make_header(format, segment_bytes, shard_, header_.epoch + 1);
  seal(records, header, 0);
  const int flags = O_RDWR | O_CREAT | O_TRUNC;
  File file(files_, files_.open(dir_.get(), kNewIndexName, flags, 0600));
  if (!file) return file.get();
  int error = 0;
  write_all(files_, file.get(), &header, sizeof(header), 0, &error);
  if (error == 0)
    write_all(files_, file.get(), records.data(), records.size() * sizeof(Record), record_offset(0),
              &error);
  error = -error;
  // Whatever the durability: a rename that survives what it names would lose every page.
  if (error == 0) error = files_.sync_data(file.get());
  if (error == 0) error = files_.rename(dir_.get(), kNewIndexName, kIndexName);
  if (error < 0) return error;
  index_ = std::move(file);
  header_ = header;
  num_records_ = records.size();
  is_synced_ = true;
  return files_.sync(dir_.get());
}

int ShardWriter::go_on(const IndexFollower& follower) {
  File file(files_, files_.open(dir_.get(), kIndexName, O_RDWR, 0));
  if (!file) return file.get();
  index_ = std::move(file);
  header_ = follower.header();
  num_records_ = follower.num_records();
  return 0;
}

int ShardWriter::sync() {
  if (is_synced_) return 0;
  const int error = files_.sync_data(index_.get());
  is_synced_ = error == 0;
  return error;
}

size_t ShardWriter::append(std::vector<Record> records, int* error) {
  seal(records, header_, num_records_);
  const size_t num_bytes = records.size() * sizeof(Record);
  // Where the last append stopped in the middle of a record, or a writer died: over its beginning.
  const size_t num_written = write_all(files_, index_.get(), records.data(), num_bytes,
                                       record_offset(num_records_), error);
  *error = -*error;
  num_records_ += num_written / sizeof(Record);
  is_synced_ = false;
  return num_written / sizeof(Record);
}

}  // namespace hicache::storage
