// module.h - Module: named parameters in a tree, saved and loaded by name.
// A Module registers its parameters and children in its constructor; names join with dots (down_blocks.0.conv1.weight).
// The layers are in layers.h; the flat memory that training moves parameters into is Arena (optim.h).
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace mote::nn {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;   // in registration order

/// Weights in another dtype, for layers whose activations are of it. The copy follows the weights: whoever asks first
/// after they have been written (Tensor::version) converts all of them in one pass.
class WorkingCopy {
 public:
  explicit WorkingCopy(const Tensor& weights) : weights_(weights.detach()) {}
  const Tensor& in(DType dtype);   // laid out like the weights

 private:
  Tensor weights_, copy_;
  uint64_t version_ = 0;   // of the weights that copy_ was made from
};

/// A learnt tensor of a Module: the master weights, and what layers read of them.
struct Parameter {
  Parameter(std::string name, const Tensor& value);
  /// The value in the dtype of a layer's activations: itself, or a view of the working copy. Either is differentiated
  /// into value.grad(), in the dtype of the value.
  Tensor in(DType dtype) const;
  /// Replaces the value and drops its gradient.
  void set(const Tensor& other);

  std::string name;
  Tensor value;                        // a leaf
  std::shared_ptr<WorkingCopy> copy;   // of this value alone, or of the Arena that holds it, from `offset` on
  int64_t offset = 0;
  std::weak_ptr<const void> arena;     // expired unless an Arena holds the memory
};

class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;   // children and the arena hold pointers into it
  Module& operator=(const Module&) = delete;

  /// Every parameter below this module, with its full name, in registration order: own parameters, then children.
  NamedTensors parameters() const;
  int64_t parameter_count() const;   // elements
  /// What the modules keep beside their parameters and no optimiser changes, such as running statistics, named and
  /// ordered alike. The tensors share storage with the module: writing one restores it.
  NamedTensors buffers() const;

  /// Strict: the names and shapes in `state` must be exactly those of parameters(), its dtypes floating (they are
  /// converted). Everything that is missing, unexpected or of another shape is reported in one Error(checkpoint);
  /// nothing is changed then.
  void load_state(const std::map<std::string, Tensor>& state);

  /// Training mode switches dropout on; it is passed down to the children. Modules start in training mode.
  void train(bool on = true);
  bool is_training() const { return training_; }

  /// Moves or converts all parameters, dropping their gradients; buffers move and keep their dtype. Throws Error while they lie in an Arena, which would
  /// go on updating the memory left behind: move first, then make the Arena.
  void to(Device device);
  void to(DType dtype);   // a floating one

  /// The name it was registered under; errors raised in forward carry it (Scope).
  const std::string& name() const { return name_; }

 protected:
  explicit Module(std::string name) : name_(std::move(name)) {}

  /// Registers and returns a parameter: a leaf that needs a gradient. The reference stays valid.
  Parameter& add_parameter(const std::string& name, const Tensor& value);
  /// Registers and returns a buffer. The reference stays valid.
  Tensor& add_buffer(const std::string& name, const Tensor& value);
  /// Registers a child that is a member of this module (or owned by it) and returns it.
  template <class M>
  M& add_child(const std::string& name, M& child) {
    adopt(name, child);
    return child;
  }

 private:
  friend class Arena;
  void adopt(const std::string& name, Module& child);
  void check_fresh(const std::string& name) const;
  template <class Self, class Visit>
  static void walk(Self& self, const std::string& prefix, const Visit& visit);   // visit(prefix, Self&)
  template <class Convert>
  void convert_parameters(const char* op, const Convert& convert);
  std::vector<std::pair<std::string, Parameter*>> slots();

  std::string name_;
  std::deque<Parameter> parameters_;   // deque: references to elements stay valid
  std::deque<std::pair<std::string, Tensor>> buffers_;
  std::vector<Module*> children_;
  bool training_ = true;
};

}  // namespace mote::nn
