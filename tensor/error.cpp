#include "tensor/error.h"

#include <vector>

namespace mote {
namespace {

thread_local std::vector<std::string_view> scope_stack;

std::string with_scope(const std::string& message) {
  std::string path = Scope::path();
  return path.empty() ? message : message + "\n  while running " + path;
}

}  // namespace

Error::Error(Kind kind, const std::string& message) : std::runtime_error(with_scope(message)), kind_(kind) {}

Scope::Scope(std::string_view name) { scope_stack.push_back(name); }
Scope::~Scope() { scope_stack.pop_back(); }

std::string Scope::path() {
  std::string path;
  for (std::string_view name : scope_stack) {
    if (!path.empty() && !name.empty()) path += '.';
    path += name;
  }
  return path;
}

}  // namespace mote
