#include "autograd/engine.h"

#include <atomic>
#include <map>
#include <utility>

#include "tensor/kernels.h"

namespace mote {

void watch_output(const char* op, const Tensor& y);

struct Remake {
  std::function<Tensor()> make;
  int links;   // remade inputs that `make` goes through
};

namespace {

thread_local bool recording_off = false;
thread_local const Watch* current_watch = nullptr;
// Set when an op was not recorded although an input needed a gradient: checkpoint's first run asks whether what it ran
// has to be differentiated at all.
thread_local bool skipped_a_record = false;
// The op whose backward is running, for the message of Saved::get().
thread_local const char* running_op = nullptr;

// Shared by all threads, so that a graph that was built by several of them is still numbered in the order of creation.
std::atomic<uint64_t> last_number{0};

/// Sets a thread-local variable for as long as it lives.
template <class T>
class Setting {
 public:
  Setting(T& variable, T value) : variable_(variable), before_(std::exchange(variable, value)) {}
  ~Setting() { variable_ = before_; }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  T& variable_;
  T before_;
};

std::shared_ptr<Node> new_node(const char* op, const Tensor& y) {
  auto node = std::make_shared<Node>();
  node->op = op;
  node->number = ++last_number;
  node->shape = y.shape();
  node->dtype = y.dtype();
  return node;
}

Tensor attach(const char* op, Tensor y, const Tensor* inputs, size_t count, BackwardFn backward) {
  check(is_floating(y.dtype()), op, ": only a floating result can have a gradient, got ", describe(y));
  std::shared_ptr<Node> node = new_node(op, y);
  node->inputs.reserve(count);
  for (size_t i = 0; i < count; ++i) node->inputs.push_back(inputs[i].node());
  node->backward = std::move(backward);
  y.set_node(std::move(node));
  return y;
}

Tensor record_range(const char* op, Tensor y, const Tensor* inputs, size_t count, BackwardFn backward) {
  if (current_watch) watch_output(op, y);
  bool needed = false;
  for (size_t i = 0; i < count; ++i) needed = needed || inputs[i].needs_grad();
  if (!needed) return y;
  if (recording_off) {
    skipped_a_record = true;
    return y;
  }
  return attach(op, std::move(y), inputs, count, std::move(backward));
}

Tensor sum_of(const Tensor& a, const Tensor& b) {
  Tensor y = empty_like(a);
  kernel::combine(y, {{1, a}, {1, b}});
  return y;
}

void add_to_leaf(Node& leaf, Tensor gradient) {
  if (leaf.grad.defined())
    kernel::accumulate(leaf.grad, gradient);   // the buffer is the leaf's own, even where it is a view into an arena
  else if (gradient.dtype() != leaf.dtype)
    leaf.grad = gradient.to(leaf.dtype);
  else
    leaf.grad = gradient.use_count() == 1 ? std::move(gradient) : gradient.clone();
}

// ---- The walk ------------------------------------------------------------------------------------------------------

struct Arrived {
  std::shared_ptr<Node> node;
  Tensor gradient;
};
// What the walk has reached and not yet run, newest node first. An op is newer than its inputs, so when a node comes
// up, every gradient it will ever get has been added.
using Frontier = std::map<uint64_t, Arrived, std::greater<>>;

void deliver(Frontier& frontier, const std::shared_ptr<Node>& node, Tensor gradient) {
  if (node->is_leaf) return add_to_leaf(*node, std::move(gradient));
  check(!node->consumed, "backward: the record of ", node->op,
        " has been used and freed by an earlier backward(); run the forward pass again");
  Arrived& arrived = frontier[node->number];
  if (!arrived.gradient.defined()) {
    arrived = {node, std::move(gradient)};
  } else if (arrived.gradient.use_count() == 1) {
    kernel::accumulate(arrived.gradient, gradient);
  } else {
    arrived.gradient = sum_of(arrived.gradient, gradient);   // someone else sees this storage: add(x, x) gives dy twice
  }
}

/// Runs the closure of `node`, then frees what it kept. The gradient it is given is freed on return as well.
Grads run(Node& node, Tensor dy) {
  node.consumed = true;
  BackwardFn closure = std::exchange(node.backward, nullptr);
  Setting<const char*> name(running_op, node.op);
  Grads gradients = closure(dy);
  check(gradients.size() == node.inputs.size(), node.op, ": its backward returned ", gradients.size(),
        " gradients for ", node.inputs.size(), " inputs");
  for (size_t i = 0; i < gradients.size(); ++i) {
    const Tensor& gradient = gradients[i];
    if (!gradient.defined() || !node.inputs[i]) continue;
    const Node& input = *node.inputs[i];
    bool fits = gradient.dtype() == input.dtype || (input.has_stand_in && is_floating(gradient.dtype()));
    check(gradient.shape() == input.shape && fits, node.op, ": its backward returned ", describe(gradient),
          " as the gradient of input ", i, ", which is ", input.dtype, input.shape);
  }
  return gradients;
}

}  // namespace

// ---- Tensor --------------------------------------------------------------------------------------------------------

Tensor& Tensor::requires_grad(bool on) {
  check(defined(), "requires_grad: the tensor is undefined");
  check(!node_ || node_->is_leaf, "requires_grad: the tensor is the result of ", node_ ? node_->op : "",
        ", not a leaf; detach() it first");
  if (!on) {
    node_.reset();
  } else if (!node_) {
    check(is_floating(dtype_), "requires_grad: only a floating tensor can have a gradient, got ", describe(*this));
    node_ = new_node("leaf", *this);
    node_->is_leaf = true;
  }
  return *this;
}

Tensor Tensor::grad() const { return node_ && node_->is_leaf ? node_->grad : Tensor(); }

void Tensor::set_grad(const Tensor& grad) {
  check(node_ && node_->is_leaf, "set_grad: only a leaf keeps a gradient; call requires_grad() on it first");
  if (grad.defined())
    check(grad.shape() == shape_ && grad.dtype() == dtype_ && grad.device() == device_,
          "set_grad: the gradient must have the tensor's shape, dtype and device: tensor is ", describe(*this), " on ",
          device_, ", gradient is ", describe(grad), " on ", grad.device());
  node_->grad = grad.defined() ? grad.detach() : Tensor();
}

Tensor stand_in(Tensor copy, const Tensor& leaf) {
  check(leaf.node() && leaf.node()->is_leaf && copy.shape() == leaf.shape() && is_floating(copy.dtype()),
        "stand_in: needs a floating copy of a leaf: copy is ", describe(copy), ", leaf is ", describe(leaf));
  leaf.node()->has_stand_in = true;
  copy.set_node(leaf.node());
  return copy;
}

Tensor Tensor::detach() const {
  Tensor copy = *this;
  copy.node_.reset();
  return copy;
}

// ---- Records -------------------------------------------------------------------------------------------------------

// Destroying a node destroys its inputs, and through them theirs: plain members would recurse as deep as the graph.
// The first destructor on a thread therefore collects what the ones below it hold and takes it apart in a loop.
Node::~Node() {
  struct Remains {
    std::vector<std::shared_ptr<Node>> inputs;
    BackwardFn backward;
  };
  // A plain pointer, because a static Tensor may die after the thread's other variables have been destroyed.
  thread_local std::vector<Remains>* collecting = nullptr;

  if (inputs.empty() && !backward) return;
  Remains mine{std::move(inputs), std::move(backward)};
  if (collecting) {
    collecting->push_back(std::move(mine));
    return;
  }
  std::vector<Remains> remains;
  Setting<std::vector<Remains>*> collect(collecting, &remains);
  remains.push_back(std::move(mine));
  while (!remains.empty()) {
    Remains next = std::move(remains.back());
    remains.pop_back();
  }
}

Tensor record(const char* op, Tensor y, std::initializer_list<Tensor> inputs, BackwardFn backward) {
  return record_range(op, std::move(y), inputs.begin(), inputs.size(), std::move(backward));
}

Tensor record(const char* op, Tensor y, const std::vector<Tensor>& inputs, BackwardFn backward) {
  return record_range(op, std::move(y), inputs.data(), inputs.size(), std::move(backward));
}

Saved::Saved(const Tensor& tensor) {
  if (tensor.node() && tensor.node()->remake) {
    remake_ = tensor.node()->remake;
    return;
  }
  tensor_ = tensor.detach();
  version_ = tensor.defined() ? tensor.version() : 0;
}

Tensor Saved::get() const {
  if (remake_) return remake_->make();
  if (tensor_.defined())
    check(tensor_.version() == version_, running_op ? running_op : "Saved", ": a tensor saved for backward, ",
          describe(tensor_), ", was overwritten in place after the forward pass (version ", tensor_.version(),
          ", saved at version ", version_, ")");
  return tensor_;
}

Tensor remade(Tensor y, std::function<Tensor()> make) {
  if (y.node()) y.node()->remake = std::make_shared<Remake>(Remake{std::move(make), 0});
  return y;
}

Tensor remade(Tensor y, const Tensor& link, std::function<Tensor()> make) {
  constexpr int kMostLinks = 4;   // each is work in backward and a level of recursion when it is destroyed
  const Remake* before = link.node() ? link.node()->remake.get() : nullptr;
  if (y.node() && before && before->links < kMostLinks)
    y.node()->remake = std::make_shared<Remake>(Remake{std::move(make), before->links + 1});
  return y;
}

// ---- backward ------------------------------------------------------------------------------------------------------

void backward(const Tensor& loss, const Tensor& dloss) {
  check(loss.defined(), "backward: loss is undefined");
  check(loss.needs_grad(), "backward: loss ", describe(loss),
        " has no record: nothing it was made from needs a gradient, or it was made under NoGrad");
  Tensor seed;
  if (dloss.defined()) {
    check(dloss.shape() == loss.shape() && dloss.dtype() == loss.dtype() && dloss.device() == loss.device(),
          "backward: dloss must have the shape, dtype and device of loss: loss is ", describe(loss), " on ",
          loss.device(), ", dloss is ", describe(dloss), " on ", dloss.device());
    seed = dloss.detach();
  } else {
    check(loss.numel() == 1, "backward: loss ", describe(loss), " has ", loss.numel(),
          " elements; only a loss of one element can go without dloss");
    seed = full(loss.shape(), 1, loss.dtype(), loss.device());
  }

  NoGrad no_grad;   // closures may call ops
  Frontier frontier;
  deliver(frontier, loss.node(), std::move(seed));
  while (!frontier.empty()) {
    Arrived next = std::move(frontier.extract(frontier.begin()).mapped());
    Grads gradients = run(*next.node, std::move(next.gradient));
    std::vector<std::shared_ptr<Node>> inputs = std::exchange(next.node->inputs, {});
    for (size_t i = 0; i < inputs.size(); ++i) {
      Tensor gradient = std::exchange(gradients[i], {});
      if (gradient.defined() && inputs[i]) deliver(frontier, inputs[i], std::move(gradient));
    }
  }
}

Watch::Watch(Look look) : look_(std::move(look)), before_(std::exchange(current_watch, this)) {}
Watch::~Watch() { current_watch = before_; }
void watch_output(const char* op, const Tensor& y) { current_watch->look_(op, y); }

NoGrad::NoGrad() : before_(std::exchange(recording_off, true)) {}
NoGrad::~NoGrad() { recording_off = before_; }
bool NoGrad::active() { return recording_off; }

// ---- checkpoint ----------------------------------------------------------------------------------------------------

Tensor checkpoint(const std::function<Tensor(const std::vector<Tensor>&)>& fn, const std::vector<Tensor>& inputs,
                  Generator* generator) {
  if (recording_off) return fn(inputs);

  Generator start = generator ? *generator : Generator{};
  Tensor y;
  bool needed;
  {
    NoGrad no_grad;
    Setting<bool> watch(skipped_a_record, false);
    y = fn(inputs);
    check(y.defined(), "checkpoint: fn returned an undefined tensor");
    needed = skipped_a_record || y.needs_grad();   // fn may hand on an input as it is
  }
  y = y.detach();
  if (!needed) return y;

  std::vector<Saved> saved(inputs.begin(), inputs.end());
  std::vector<bool> wanted;
  for (const Tensor& input : inputs) wanted.push_back(input.needs_grad());
  auto run_again = [fn, saved, wanted, generator, start](const Tensor& dy) -> Grads {
    std::vector<Tensor> leaves;
    for (size_t i = 0; i < saved.size(); ++i) {
      leaves.push_back(saved[i].get());
      if (wanted[i]) leaves.back().requires_grad();
    }
    {
      Setting<bool> record(recording_off, false);
      Generator unused;
      Setting<Generator> replay(generator ? *generator : unused, start);   // afterwards as it was before the replay
      Tensor again = fn(leaves);
      check(again.defined() && again.shape() == dy.shape() && again.dtype() == dy.dtype(),
            "checkpoint: fn must give the same shape and dtype when it is run again: first ", dy.dtype(), dy.shape(),
            ", now ", again.dtype(), again.shape());
      if (again.needs_grad()) backward(again, dy);
    }
    Grads gradients;
    for (const Tensor& leaf : leaves) gradients.push_back(leaf.grad());
    return gradients;
  };
  // Recorded even where no input needs a gradient: leaves that fn uses, such as weights, do.
  return attach("checkpoint", y, inputs.data(), inputs.size(), std::move(run_again));
}

}  // namespace mote
