// A small coverage-guided fuzzer, where there is no libFuzzer: for what gcc compiled with
// -fsanitize-coverage=trace-pc. Its options are a few of libFuzzer's.
//
//   fuzz_store [-max_total_time=SECONDS] [-seed=N] FOLDER_OF_INPUTS...      or      fuzz_store
//   INPUT
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes);
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

using Input = std::vector<uint8_t>;

constexpr size_t kNumEdges = 1 << 16;
constexpr size_t kMaxBytes = 4096;
uint8_t edges[kNumEdges];  // how often each was taken, modulo a hash
uintptr_t last_pc;
const Input* running = nullptr;
std::string prefix;  // of the file of what crashed

Input read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Input(std::istreambuf_iterator<char>(file), {});
}

// Of a sanitizer, which ends the process, or of an abort().
void save_what_crashed() {
  if (running == nullptr) return;
  const std::string name = prefix + "crash-" + std::to_string(::getpid());
  std::ofstream file(name, std::ios::binary);
  file.write(reinterpret_cast<const char*>(running->data()),
             static_cast<std::streamsize>(running->size()));
  file.close();
  std::fprintf(stderr, "the input is in %s\n", name.c_str());
}

void on_abort(int) {
  save_what_crashed();
  std::signal(SIGABRT, SIG_DFL);
  std::raise(SIGABRT);
}

// 1, 2, 3, 4 to 7, 8 to 15, ... of an edge are different ways to take it.
uint8_t bucket_of(uint8_t count) {
  uint8_t bucket = std::min<uint8_t>(count, 3);
  for (; count >= 4; count /= 2) ++bucket;
  return static_cast<uint8_t>(1 << std::min<int>(bucket, 7));
}

class Corpus {
 public:
  explicit Corpus(uint64_t seed) : random_(seed) {}

  // Kept if it goes where none went before.
  void run(const Input& input) {
    std::memset(edges, 0, sizeof(edges));
    last_pc = 0;
    running = &input;
    LLVMFuzzerTestOneInput(input.data(), input.size());
    running = nullptr;
    ++num_runs;
    bool is_new = inputs.empty();
    for (size_t i = 0; i < kNumEdges; ++i) {
      const uint8_t bucket = edges[i] == 0 ? 0 : bucket_of(edges[i]);
      if ((bucket & ~seen_[i]) == 0) continue;
      num_seen += seen_[i] == 0;
      seen_[i] |= bucket;
      is_new = true;
    }
    if (is_new) inputs.push_back(input);
  }

  Input mutant() {
    Input input = any();
    for (uint64_t num_steps = 1 + random_() % 5; num_steps > 0; --num_steps) mutate(input);
    if (input.size() > kMaxBytes) input.resize(kMaxBytes);
    return input;
  }

  std::vector<Input> inputs;
  uint64_t num_runs = 0, num_seen = 0;

 private:
  const Input& any() { return inputs[random_() % inputs.size()]; }

  void mutate(Input& input) {
    if (input.empty()) return input.push_back(static_cast<uint8_t>(random_()));
    const size_t at = random_() % input.size();
    const auto here = input.begin() + static_cast<std::ptrdiff_t>(at);
    const size_t length = std::min<size_t>(1 + random_() % 96, input.size() - at);
    const auto end = here + static_cast<std::ptrdiff_t>(length);
    static constexpr int64_t kNumbers[] = {0, 1,  -1, 2,    3,         7,
                                           8, 80, 88, 4096, INT32_MAX, INT64_MAX};
    switch (random_() % 8) {
      case 0: *here ^= static_cast<uint8_t>(1 << random_() % 8); break;
      case 1: *here = static_cast<uint8_t>(random_()); break;
      case 2: input.erase(here, end); break;
      case 3: std::fill(here, end, static_cast<uint8_t>(random_() % 2 ? 0 : 255)); break;
      case 4: {  // a piece of another input, or of this one, over what is here
        const Input other = random_() % 2 ? any() : input;
        if (other.empty()) return;
        const size_t from = random_() % other.size();
        std::copy_n(other.begin() + static_cast<std::ptrdiff_t>(from),
                    std::min(length, other.size() - from), here);
        break;
      }
      case 5: {  // twice
        const Input piece(here, end);
        input.insert(here, piece.begin(), piece.end());
        break;
      }
      case 6: input.resize(at); break;
      default: {
        const int64_t number = kNumbers[random_() % std::size(kNumbers)];
        std::memcpy(&*here, &number, std::min<size_t>(input.size() - at, random_() % 2 ? 4 : 8));
      }
    }
  }

  std::mt19937_64 random_;
  uint8_t seen_[kNumEdges] = {};
};

}  // namespace

extern "C" void __sanitizer_cov_trace_pc() {
  const auto pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  uint8_t& count = edges[(pc ^ last_pc >> 1) * 0x9e3779b97f4a7c15u >> 48];
  if (count < 255) ++count;
  last_pc = pc;
}

int main(int argc, char** argv) {
  LLVMFuzzerInitialize(&argc, &argv);
  uint64_t num_seconds = 60, seed = std::random_device()();
  std::vector<Input> given;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const std::string value = word.substr(word.find('=') + 1);
    if (word.starts_with("-max_total_time=")) {
      num_seconds = std::stoull(value);
    } else if (word.starts_with("-seed=")) {
      seed = std::stoull(value);
    } else if (word.starts_with("-artifact_prefix=")) {
      prefix = value;
    } else if (std::filesystem::is_directory(word)) {
      for (const auto& entry : std::filesystem::directory_iterator(word))
        given.push_back(read_file(entry.path()));
    } else {
      given.push_back(read_file(word));
      num_seconds = 0;
    }
  }
  std::signal(SIGABRT, on_abort);
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(save_what_crashed);
  std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(seed));
  Corpus corpus(seed);
  for (const Input& input : given) corpus.run(input);
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::seconds(num_seconds);
  if (corpus.inputs.empty()) corpus.run({});
  while (Clock::now() < end) corpus.run(corpus.mutant());
  std::fprintf(stderr, "runs %llu, inputs %zu, edges %llu\n",
               static_cast<unsigned long long>(corpus.num_runs), corpus.inputs.size(),
               static_cast<unsigned long long>(corpus.num_seen));
  return 0;
}
