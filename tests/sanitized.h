// sanitized.h - whether the build checks every access, which makes it some twenty times slower: long tests then do less.
#pragma once

namespace mote::test {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace mote::test
