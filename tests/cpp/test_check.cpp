// check.h: the macro raises the right kind, formats only on failure, and names the values.
#include <cstdio>
#include <string>

#include "hicache/check.h"

namespace {

int num_failures = 0;

void expect(bool ok, const char* what) {
  if (ok) return;
  ++num_failures;
  std::fprintf(stderr, "FAILED: %s\n", what);
}

int num_formatted = 0;

// Stands for a value whose formatting costs something.
struct Costly {
  friend std::ostream& operator<<(std::ostream& out, const Costly&) {
    ++num_formatted;
    return out << "costly";
  }
};

void test_success_formats_nothing() {
  HICACHE_CHECK(kLayout, 1 + 1 == 2, "value=", Costly{});
  expect(num_formatted == 0, "a check that holds formats no message");
}

void test_failure_carries_kind_and_values() {
  try {
    HICACHE_CHECK(kPageIndex, 7 < 4, "page_id=", 7, " num_pages=", 4, " ", Costly{});
    expect(false, "a failed check raises");
  } catch (const hicache::Error& error) {
    expect(error.kind() == hicache::ErrorKind::kPageIndex, "the kind is the one given");
    expect(std::string(error.what()) == "page_id=7 num_pages=4 costly", "the values are there");
  }
  expect(num_formatted == 1, "a failed check formats once");
}

// A macro that is a bare `if` would take the `else` of its caller.
void test_is_one_statement() {
  bool other = false;
  if (num_failures > 1000)
    HICACHE_CHECK(kLayout, true, "");
  else
    other = true;
  expect(other, "the macro is one statement");
}

}  // namespace

int main() {
  test_success_formats_nothing();
  test_failure_carries_kind_and_values();
  test_is_one_statement();
  return num_failures != 0;
}
