// cpu_check.h - the instruction sets this program was compiled for against those of the machine it runs on.
// The check runs before main and before the constructors of other files, in code compiled for any x86-64 processor:
// without it a binary carried to an older machine would die of an illegal instruction.
#pragma once
#include <cstddef>

// Bit i is instruction set i of mote_isa_names.
extern "C" {
extern const unsigned mote_isa_built;    // what the compiler was allowed to use (isa_built.cpp)
extern const char* const mote_isa_names[];
extern const int mote_isa_count;
unsigned mote_isa_machine();             // what this machine and its kernel offer
/// Names of the sets of `built` that `machine` lacks, space separated, into `text`. Returns how many.
int mote_isa_missing(unsigned built, unsigned machine, char* text, size_t bytes);
}
