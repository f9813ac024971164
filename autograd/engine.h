// engine.h - reverse-mode differentiation: the record of an op, and backward() that walks the records.
// Define-by-run: every differentiable op (ops.h) calls record() with a closure that turns dy into the gradients of its
// inputs. Nodes carry a creation number; backward always continues with the newest node, which is a topological order.
#pragma once
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "tensor/random.h"
#include "tensor/tensor.h"

namespace mote {

using Grads = std::vector<Tensor>;   // one an input, undefined where there is none
using BackwardFn = std::function<Grads(const Tensor& dy)>;
struct Remake;

/// What a tensor remembers of how it was made. A leaf has no backward and keeps its gradient.
struct Node {
  const char* op = "leaf";
  uint64_t number = 0;
  std::vector<std::shared_ptr<Node>> inputs;   // null where an input needs no gradient
  BackwardFn backward;
  std::shared_ptr<const Remake> remake;        // null: the output is kept where it is needed (remade)
  Tensor grad;
  Shape shape;
  DType dtype = DType::f32;
  bool is_leaf = false;
  bool has_stand_in = false;   // a leaf that may be read in another dtype, and so get gradients of that dtype
  bool consumed = false;   // backward has run and freed what it kept
  ~Node();                 // iterative: a graph of a million nodes does not overflow the stack
};

/// Attaches a record to `y` and returns it; under NoGrad, or if no input needs a gradient, y is returned as it is.
/// `backward` gets dy (shape and dtype of y) and returns one gradient an input, each in the shape of that input.
Tensor record(const char* op, Tensor y, std::initializer_list<Tensor> inputs, BackwardFn backward);
Tensor record(const char* op, Tensor y, const std::vector<Tensor>& inputs, BackwardFn backward);

/// A tensor kept for backward: without its record, so that graphs cannot form cycles. get() throws Error if the
/// storage has been written since (an in-place update between forward and backward would give wrong gradients).
/// Of a result that was declared remade(), get() makes a fresh one each time.
class Saved {
 public:
  Saved() = default;
  explicit Saved(const Tensor& tensor);
  Tensor get() const;

 private:
  Tensor tensor_;
  uint64_t version_ = 0;
  std::shared_ptr<const Remake> remake_;
};

/// Declares that `make` gives the recorded result y again, bit for bit, cheaply and from tensors that are smaller or
/// kept anyway: what saves y for its backward keeps `make` instead. Returns y. For an op that passes a remade input on,
/// such as a reshape, `link` is that input: nothing is declared unless it is remade itself, through few links.
Tensor remade(Tensor y, std::function<Tensor()> make);
Tensor remade(Tensor y, const Tensor& link, std::function<Tensor()> make);

/// `copy`, the values of a leaf in another dtype, as a tensor to compute with in its place: what backward finds for it is
/// added to the grad of the leaf, in the dtype of the leaf. The caller keeps the copy equal to the leaf.
/// Throws Error unless leaf is one, and copy is floating and of its shape.
Tensor stand_in(Tensor copy, const Tensor& leaf);

/// Adds d(loss)/d(leaf) to the grad of every leaf that `loss` depends on. `dloss` defaults to 1 and must be given
/// unless loss has one element. What the records keep is freed as the walk goes: a second call on the same graph is
/// an Error. Gradients of non-leaf tensors are freed when consumed.
void backward(const Tensor& loss, const Tensor& dloss = {});

/// While one lives, ops on this thread record nothing.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;
  static bool active();

 private:
  bool before_;
};

/// While one lives, `look` sees, as it is made, the output of every op of this thread that is recorded or would be without
/// NoGrad: to find where the first value that is not finite comes from. Not for fast code.
class Watch {
 public:
  using Look = std::function<void(const char* op, const Tensor& y)>;
  explicit Watch(Look look);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  Look look_;
  const Watch* before_;
  friend void watch_output(const char* op, const Tensor& y);
};

/// y = fn(inputs) without keeping what happens inside; backward runs fn again with recording on. Random draws repeat:
/// for the second run `generator` (may be null; must outlive the graph) is put back to where the first one started,
/// and afterwards to where backward found it, so that a draw made since is not drawn twice.
/// Tensors that fn captures must be leaves, such as weights: they get their gradients too. Checkpoints nest. A result
/// of another op has to come in through `inputs`.                                                [Chen 2016, sec. 3]
Tensor checkpoint(const std::function<Tensor(const std::vector<Tensor>&)>& fn, const std::vector<Tensor>& inputs,
                  Generator* generator = nullptr);

}  // namespace mote
