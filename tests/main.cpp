// The test runner's main; compiled alone because Catch2's takes seconds.
#define CATCH_CONFIG_MAIN
#include "tests/catch.h"
