#include "nn/module.h"

#include <algorithm>

#include "autograd/engine.h"

namespace mote::nn {

// ---- Parameters ----------------------------------------------------------------------------------------------------

const Tensor& WorkingCopy::in(DType dtype) {
  bool fits = copy_.defined() && copy_.dtype() == dtype;
  if (fits && version_ == weights_.version()) return copy_;
  if (!fits) copy_ = empty(weights_.shape(), dtype, weights_.device());
  copy_.copy_(weights_);   // a write that a graph recorded with the old weights notices (Saved)
  version_ = weights_.version();
  return copy_;
}

Parameter::Parameter(std::string name, const Tensor& value) : name(std::move(name)) { set(value); }

void Parameter::set(const Tensor& other) {
  value = other.detach();
  value.requires_grad();
  copy = std::make_shared<WorkingCopy>(value);
  offset = 0;
}

Tensor Parameter::in(DType dtype) const {
  if (value.dtype() == dtype) return value;
  const Tensor& all = copy->in(dtype);
  Tensor view = all.view({all.numel()}).rows(offset, offset + value.numel()).view(value.shape());
  return value.needs_grad() ? stand_in(view, value) : view;
}

// ---- The tree ------------------------------------------------------------------------------------------------------

Parameter& Module::add_parameter(const std::string& name, const Tensor& value) {
  check(value.defined() && is_floating(value.dtype()), "Module::add_parameter: '", name, "' must be a floating tensor");
  check_fresh(name);
  return parameters_.emplace_back(name, value);
}

Tensor& Module::add_buffer(const std::string& name, const Tensor& value) {
  check_fresh(name);
  return buffers_.emplace_back(name, value).second;
}

void Module::adopt(const std::string& name, Module& child) {
  check_fresh(name);
  child.name_ = name;
  children_.push_back(&child);
}

void Module::check_fresh(const std::string& name) const {
  auto has_name = [&](const auto& item) { return item.name == name; };
  auto is_named = [&](const Module* child) { return child->name_ == name; };
  auto is_buffer = [&](const auto& item) { return item.first == name; };
  bool taken = std::any_of(parameters_.begin(), parameters_.end(), has_name) ||
               std::any_of(children_.begin(), children_.end(), is_named) ||
               std::any_of(buffers_.begin(), buffers_.end(), is_buffer);
  check(!taken && !name.empty(), "Module: the name '", name, "' is empty or taken");
}

template <class Self, class Visit>
void Module::walk(Self& self, const std::string& prefix, const Visit& visit) {
  visit(prefix, self);
  for (Module* child : self.children_) walk(static_cast<Self&>(*child), prefix + child->name_ + ".", visit);
}

NamedTensors Module::parameters() const {
  NamedTensors all;
  walk(*this, "", [&](const std::string& prefix, const Module& module) {
    for (const Parameter& slot : module.parameters_) all.emplace_back(prefix + slot.name, slot.value);
  });
  return all;
}

std::vector<std::pair<std::string, Parameter*>> Module::slots() {
  std::vector<std::pair<std::string, Parameter*>> all;
  walk(*this, "", [&](const std::string& prefix, Module& module) {
    for (Parameter& slot : module.parameters_) all.emplace_back(prefix + slot.name, &slot);
  });
  return all;
}

NamedTensors Module::buffers() const {
  NamedTensors all;
  walk(*this, "", [&](const std::string& prefix, const Module& module) {
    for (const auto& [name, value] : module.buffers_) all.emplace_back(prefix + name, value);
  });
  return all;
}

int64_t Module::parameter_count() const {
  int64_t count = 0;
  for (const auto& [name, value] : parameters()) count += value.numel();
  return count;
}

void Module::train(bool on) {
  training_ = on;
  for (Module* child : children_) child->train(on);
}

// ---- Loading and moving --------------------------------------------------------------------------------------------

void Module::load_state(const std::map<std::string, Tensor>& state) {
  std::vector<std::pair<std::string, Parameter*>> wanted = slots();
  std::string problems;
  int64_t count = 0;
  auto report = [&](const auto&... parts) {
    problems += concat_text("\n  ", parts...);
    ++count;
  };
  std::map<std::string, bool> known;
  for (auto& [name, parameter] : wanted) {
    known[name] = true;
    auto found = state.find(name);
    if (found == state.end()) {
      report("missing: '", name, "' ", parameter->value.shape());
    } else if (!found->second.defined() || !is_floating(found->second.dtype()) ||
               !(found->second.shape() == parameter->value.shape())) {
      report("of another kind: '", name, "' is ", describe(found->second), ", needs ", describe(parameter->value));
    }
  }
  for (const auto& [name, tensor] : state)
    if (!known.count(name)) report("unexpected: '", name, "' ", describe(tensor));
  if (count > 0)
    fail(Error::Kind::checkpoint, "load_state: the state does not fit the ", wanted.size(), " parameters of ",
         name_.empty() ? "the module" : name_, "; problems: ", count, problems);
  for (auto& [name, parameter] : wanted) parameter->value.copy_(state.at(name));
}

template <class Convert>
void Module::convert_parameters(const char* op, const Convert& convert) {
  std::vector<std::pair<std::string, Parameter*>> all = slots();
  for (auto& [name, parameter] : all)
    check(parameter->arena.expired(), op, ": '", name, "' lies in an Arena; convert the module before making one");
  for (auto& [name, parameter] : all) parameter->set(convert(parameter->value.detach()));
}

void Module::to(Device device) {
  require_device(device);
  convert_parameters("Module::to", [&](const Tensor& value) { return value.to(device); });
  walk(*this, "", [&](const std::string&, Module& module) {
    for (auto& [name, value] : module.buffers_) value = value.to(device);
  });
}

void Module::to(DType dtype) {
  check(is_floating(dtype), "Module::to: parameters are floating (f32, bf16 or f64), got ", dtype);
  convert_parameters("Module::to", [&](const Tensor& value) { return value.to(dtype); });
}

}  // namespace mote::nn
