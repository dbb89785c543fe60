// What a PagePool finds that another process did: in the middle of a read, or against the rules.
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>

#include "hicache/storage/shard_writer.h"
#include "store_cases.h"

namespace {

using namespace store_cases;

// A page that is overwritten while we read it is a miss, and no reason to write a shard.
void test_a_read_that_is_overtaken() {
  class OvertakenEngine : public PlainEngine {
   public:
    using PlainEngine::PlainEngine;
    void run(const IoRequest* requests, size_t num_requests, const IoLimit& limit,
             const IoDone& done) override {
      if (meanwhile) std::exchange(meanwhile, nullptr)();
      PlainEngine::run(requests, num_requests, limit, done);
    }
    std::function<void()> meanwhile;
  };
  const Folder folder;
  Files files;
  PlainEngine plain(files);
  OvertakenEngine engine(files);
  const PoolConfig config = config_of(Durability::kNone, 4 * kPageSize, 4 * kPageSize);
  PagePool writer(files, plain, open_dir(files, folder.path), config);
  PagePool reader(files, engine, open_dir(files, folder.path), config);
  EXPECT(all(put(writer, {1})));
  bool is_overtaken = false;
  engine.meanwhile = [&] {
    EXPECT(writer.remove(keys_of({1})) == 1 && all(put(writer, {2, 3, 4, 5})));
    is_overtaken = true;
  };
  EXPECT(!get(reader, {1})[0] && is_overtaken && reader.stats().num_corrupt_pages == 0);
  EXPECT(all(get(reader, {2, 3, 4, 5})));
  const std::filesystem::directory_iterator shards(folder.path);
  EXPECT(std::distance(begin(shards), end(shards)) == 1);
}

// A page of generation 0 was forgotten by its shard, and found when the shard was another's.
void test_a_record_that_no_writer_makes(uint64_t generation) {
  const Folder folder;
  Files files;
  PlainEngine engine(files);
  std::filesystem::create_directory(folder.path / "shard-00000000000000aa");
  std::unique_ptr<ShardWriter> writer;
  File dir = open_dir(files, folder.path / "shard-00000000000000aa");
  EXPECT(ShardWriter::take(files, std::move(dir), 0xaa, &writer) == 0);
  const Record record = make_record(RecordKind::kPage, 0xaa, 0, generation, key_of(1));
  EXPECT(writer->rewrite(config_of().format, 16 * kPageSize, {record}) == 0);
  writer.reset();
  {
    PagePool pool(files, engine, open_dir(files, folder.path), config_of());
    EXPECT(all(put(pool, {2})) && !get(pool, {1})[0]);
  }
  PagePool pool(files, engine, open_dir(files, folder.path), config_of());
  EXPECT(all(get(pool, {2})) && all(put(pool, {1})) && all(get(pool, {1})));
}

}  // namespace

int main() {
  test_a_read_that_is_overtaken();
  test_a_record_that_no_writer_makes(0);
  test_a_record_that_no_writer_makes(UINT64_MAX);
  return 0;
}
