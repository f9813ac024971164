// Built for the oldest x86-64 (CMakeLists.txt): no headers with inline functions here, because the linker keeps one copy
// of an inline function and that one may come from a file compiled for newer processors.
#include "apps/cpu_check.h"

#include <unistd.h>

extern "C" {

extern const char* const mote_isa_names[] = {
    "sse3",     "ssse3",    "sse4.1",   "sse4.2",     "popcnt",     "avx",        "avx2",
    "fma",      "bmi",      "bmi2",     "avx512f",    "avx512bw",   "avx512cd",   "avx512dq",
    "avx512vl", "avx512vnni", "avx512bf16", "avx512vbmi", "avx512ifma", "avx512fp16"};
extern const int mote_isa_count = int(sizeof mote_isa_names / sizeof *mote_isa_names);

unsigned mote_isa_machine() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  unsigned have = 0;
  if (__builtin_cpu_supports("sse3")) have |= 1u << 0;
  if (__builtin_cpu_supports("ssse3")) have |= 1u << 1;
  if (__builtin_cpu_supports("sse4.1")) have |= 1u << 2;
  if (__builtin_cpu_supports("sse4.2")) have |= 1u << 3;
  if (__builtin_cpu_supports("popcnt")) have |= 1u << 4;
  if (__builtin_cpu_supports("avx")) have |= 1u << 5;
  if (__builtin_cpu_supports("avx2")) have |= 1u << 6;
  if (__builtin_cpu_supports("fma")) have |= 1u << 7;
  if (__builtin_cpu_supports("bmi")) have |= 1u << 8;
  if (__builtin_cpu_supports("bmi2")) have |= 1u << 9;
  if (__builtin_cpu_supports("avx512f")) have |= 1u << 10;
  if (__builtin_cpu_supports("avx512bw")) have |= 1u << 11;
  if (__builtin_cpu_supports("avx512cd")) have |= 1u << 12;
  if (__builtin_cpu_supports("avx512dq")) have |= 1u << 13;
  if (__builtin_cpu_supports("avx512vl")) have |= 1u << 14;
  if (__builtin_cpu_supports("avx512vnni")) have |= 1u << 15;
  if (__builtin_cpu_supports("avx512bf16")) have |= 1u << 16;
  if (__builtin_cpu_supports("avx512vbmi")) have |= 1u << 17;
  if (__builtin_cpu_supports("avx512ifma")) have |= 1u << 18;
  if (__builtin_cpu_supports("avx512fp16")) have |= 1u << 19;
  return have;
#else
  return ~0u;
#endif
}

int mote_isa_missing(unsigned built, unsigned machine, char* text, size_t bytes) {
  int missing = 0;
  size_t at = 0;
  for (int i = 0; i < mote_isa_count; ++i) {
    if (!(built >> i & 1u) || (machine >> i & 1u)) continue;
    if (missing++ > 0 && at + 1 < bytes) text[at++] = ' ';
    for (const char* letter = mote_isa_names[i]; *letter && at + 1 < bytes; ++letter) text[at++] = *letter;
  }
  if (bytes > 0) text[at] = 0;
  return missing;
}

/// 101 is the first priority a program may use: this runs before the constructors of all other files.
__attribute__((constructor(101))) static void check_before_main() {
  char names[256];
  if (mote_isa_missing(mote_isa_built, mote_isa_machine(), names, sizeof names) == 0) return;
  const char* parts[] = {"mote: error: this program was compiled for instruction sets that this machine does not have: ",
                         names, "\n  build it here, or for any machine with MOTE_MARCH=x86-64-v2\n"};
  for (const char* part : parts) {
    size_t length = 0;
    while (part[length]) ++length;
    if (write(STDERR_FILENO, part, length) < 0) break;
  }
  _exit(5);
}

}  // extern "C"
