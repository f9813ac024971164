// module.h - Module: named parameters in a tree, saved and loaded by name.
// A Module registers its parameters and children in its constructor; names join with dots (down.0.conv1.weight).
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace mote::nn {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;   // in registration order

class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;             // children and the arena hold pointers into it
  Module& operator=(const Module&) = delete;

  /// Every parameter below this module, with its full name, in registration order.
  NamedTensors parameters() const;
  int64_t parameter_count() const;            // elements

  /// Strict: the names and shapes in `state` must be exactly those of parameters(). Everything that is missing,
  /// unexpected or of another shape is reported in one Error(checkpoint); nothing is changed then.
  void load_state(const std::map<std::string, Tensor>& state);

  /// Training mode switches dropout on; it is passed down to the children. Modules start in training mode.
  void train(bool on = true);
  bool is_training() const { return training_; }
  void to(Device device);                     // moves all parameters

 protected:
  /// Registers and returns a parameter: a leaf that needs a gradient.
  Tensor& add_parameter(const std::string& name, Tensor value);
  /// Registers a child that is a member of this module (or owned by it) and returns it.
  template <class M>
  M& add_child(const std::string& name, M& child) {
    children_.emplace_back(name, &child);
    return child;
  }
  const std::vector<std::pair<std::string, Module*>>& children() const { return children_; }

 private:
  friend class Arena;
  void collect(const std::string& prefix, std::vector<std::pair<std::string, Tensor*>>& into);
  std::vector<std::pair<std::string, Tensor*>> slots();

  std::vector<std::pair<std::string, std::unique_ptr<Tensor>>> parameters_;   // unique_ptr: references stay valid
  std::vector<std::pair<std::string, Module*>> children_;
  bool training_ = true;
};

}  // namespace mote::nn
