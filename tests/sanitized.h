// sanitized.h - whether what is tested was built to check every access, which makes it some twenty times slower: long
// tests then do less. (The tests themselves are built without, so the compiler's own macros do not tell.)
#pragma once

namespace mote::test {

#ifdef MOTE_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace mote::test
