// Whether the files of a folder can be read and written around the page cache.
#pragma once

#include <string>

namespace hicache {

struct DirectIo {
  bool works;
  std::string reason;  // why not; empty if it works
};

// Tries O_DIRECT with a nameless file in the folder, at 4 KiB: what the file system says of itself
// (statx), or else what it does. HICACHE_O_DIRECT=0 is a no, for machines on which the answer is
// wrong and for tests. Error(kStorage) if there can be no file in the folder at all.
DirectIo probe_direct_io(const std::string& folder);

}  // namespace hicache
