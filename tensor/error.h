// error.h - the one exception type of Mote, the checks that throw it, and the module path that is added to it.
// Nothing below apps/ prints or exits: a failure is an Error whose kind decides the exit code (apps/main.cpp).
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace mote {

class Error : public std::runtime_error {
 public:
  enum class Kind {
    argument,    // a function was called outside its contract
    usage,       // a flag, key or configuration value is wrong
    data,        // input data is missing or malformed
    checkpoint,  // a checkpoint or file format is wrong
    resource,    // memory, disk or device is not there
    numeric,     // non-finite values, a solver that does not converge
  };

  /// `message` states op, rule, what came and what was needed; the current module path is appended (Scope).
  Error(Kind kind, const std::string& message);
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

/// Names the module being run, for the line "while running unet.down.0.conv_in" of an Error.
/// Nests; the string must outlive the Scope.
class Scope {
 public:
  explicit Scope(std::string_view name);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  /// The names from the outermost to the innermost, joined by dots; empty outside any Scope.
  static std::string path();
};

template <class... Parts>
std::string concat_text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail(Error::Kind kind, const Parts&... parts) {
  throw Error(kind, concat_text(parts...));
}

/// Throws Error(argument) made of `parts` unless `holds`. The parts are only formatted on failure.
template <class... Parts>
void check(bool holds, const Parts&... parts) {
  if (!holds) [[unlikely]] fail(Error::Kind::argument, parts...);
}

}  // namespace mote
