// ops_nn.cpp - norm, softmax, attention, resampling, lookups and losses.
#include "autograd/checks.h"
#include "autograd/ops.h"

namespace mote {
namespace {

/// The dtype that statistics and losses of x are kept in.
DType compute_dtype(const Tensor& x) { return x.dtype() == DType::f64 ? DType::f64 : DType::f32; }

/// Ids on a device are not read back here: that would stop the stream at every lookup.
void check_ids(const char* op, const Argument& ids, int64_t count, const char* what) {
  if (ids.tensor.is_cuda()) return;
  const int64_t* values = ids.tensor.data<int64_t>();
  for (int64_t i = 0; i < ids.tensor.numel(); ++i)
    check(values[i] >= 0 && values[i] < count, op, ": ", ids.name, " ", i, " is ", values[i], ", outside the ", count,
          " ", what);
}

Tensor softmax_as(const char* op, const Tensor& x, bool log) {
  check_floating(op, {"x", x});
  check(x.ndim() >= 1, op, ": x must have an axis to run over, got a scalar, ", describe(x));
  Tensor y = empty_like(x);
  kernel::softmax(y, x, log);
  if (!x.needs_grad()) return y;
  return record(op, y, {x}, [y_ = Saved(y), log](const Tensor& dy) -> Grads {
    Tensor dx = empty_like(dy);
    kernel::softmax_backward(dx, y_.get(), dy, log);
    return {dx};
  });
}

}  // namespace

// ---- Norm, softmax, attention --------------------------------------------------------------------------------------

Tensor group_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, int64_t groups, double eps, bool silu) {
  check_defined("group_norm", {"gamma", gamma});
  check_defined("group_norm", {"beta", beta});
  check_floating("group_norm", {"x", x}, {{"gamma", gamma}, {"beta", beta}});
  check_axes("group_norm", {"x", x}, 4, "[N, H, W, C]");
  int64_t channels = x.size(3);
  check(groups >= 1 && channels % groups == 0, "group_norm: groups must divide the channels: x is ", describe(x),
        " (C = ", channels, "), groups = ", groups);
  check(gamma.shape() == Shape{channels} && beta.shape() == Shape{channels},
        "group_norm: gamma and beta must be [C]: x is ", describe(x), " (C = ", channels, "), gamma is ",
        describe(gamma), ", beta is ", describe(beta));
  check(eps > 0, "group_norm: eps must be positive, got ", eps);
  Tensor y = empty_like(x);
  Tensor mean = empty({x.size(0), groups}, compute_dtype(x), x.device()), rstd = empty_like(mean);
  kernel::group_norm(y, mean, rstd, x, gamma, beta, groups, eps, silu);

  bool need_x = x.needs_grad(), need_gamma = gamma.needs_grad(), need_beta = beta.needs_grad();
  if (!need_x && !need_gamma && !need_beta) return y;
  Saved x_(x), gamma_(gamma), beta_(beta);
  auto again = [=, statistics = mean.shape()] {
    Tensor x = x_.get(), y = empty_like(x), mean = empty(statistics, compute_dtype(x), x.device()), rstd = empty_like(mean);
    kernel::group_norm(y, mean, rstd, x, gamma_.get(), beta_.get(), groups, eps, silu);
    return y;
  };
  y = record("group_norm", y, {x, gamma, beta},
                [=, mean_ = Saved(mean), rstd_ = Saved(rstd)](const Tensor& dy) -> Grads {
                  Tensor dx, dgamma, dbeta;
                  if (need_x) dx = empty_like(dy);
                  if (need_gamma) dgamma = empty_like(gamma_.get());
                  if (need_beta) dbeta = empty_like(beta_.get());
                  kernel::group_norm_backward(dx, dgamma, dbeta, dy, x_.get(), mean_.get(), rstd_.get(), gamma_.get(),
                                              beta_.get(), groups, silu);
                  return {dx, dgamma, dbeta};
                });
  return remade(y, again);
}

Tensor softmax(const Tensor& x) { return softmax_as("softmax", x, false); }
Tensor log_softmax(const Tensor& x) { return softmax_as("log_softmax", x, true); }

Tensor attention(const Tensor& qkv, int64_t heads) {
  check_floating("attention", {"qkv", qkv});
  check_axes("attention", {"qkv", qkv}, 3, "[N, T, 3 C]");
  check(qkv.size(2) % 3 == 0, "attention: the last axis must hold q | k | v, three times C: qkv is ", describe(qkv));
  int64_t channels = qkv.size(2) / 3;
  check(heads >= 1 && channels % heads == 0, "attention: heads must divide the channels: qkv is ", describe(qkv),
        " (C = ", channels, "), heads = ", heads);
  Tensor y = empty({qkv.size(0), qkv.size(1), channels}, qkv.dtype(), qkv.device());
  Tensor lse = empty({qkv.size(0), heads, qkv.size(1)}, compute_dtype(qkv), qkv.device());
  kernel::attention(y, lse, qkv, heads);
  if (!qkv.needs_grad()) return y;
  return record("attention", y, {qkv},
                [qkv_ = Saved(qkv), y_ = Saved(y), lse_ = Saved(lse), heads](const Tensor& dy) -> Grads {
                  Tensor dqkv = empty_like(qkv_.get());
                  kernel::attention_backward(dqkv, qkv_.get(), y_.get(), lse_.get(), dy, heads);
                  return {dqkv};
                });
}

// ---- Resampling ----------------------------------------------------------------------------------------------------

Tensor upsample_nearest(const Tensor& x, int64_t factor) {
  check_floating("upsample_nearest", {"x", x});
  check_axes("upsample_nearest", {"x", x}, 4, "[N, H, W, C]");
  check(factor >= 1, "upsample_nearest: factor must be at least 1, got ", factor);
  Tensor y = empty({x.size(0), x.size(1) * factor, x.size(2) * factor, x.size(3)}, x.dtype(), x.device());
  kernel::upsample_nearest(y, x, factor);
  y = record("upsample_nearest", y, {x}, [factor, shape = x.shape()](const Tensor& dy) -> Grads {
    Tensor dx = empty(shape, dy.dtype(), dy.device());
    kernel::upsample_nearest_backward(dx, dy, factor);
    return {dx};
  });
  if (!y.needs_grad()) return y;
  return remade(y, [x_ = Saved(x), factor, shape = y.shape()] {
    Tensor x = x_.get(), y = empty(shape, x.dtype(), x.device());
    kernel::upsample_nearest(y, x, factor);
    return y;
  });
}

Tensor avg_pool(const Tensor& x, int64_t factor) {
  check_floating("avg_pool", {"x", x});
  check_axes("avg_pool", {"x", x}, 4, "[N, H, W, C]");
  check(factor >= 1, "avg_pool: factor must be at least 1, got ", factor);
  check(x.size(1) % factor == 0 && x.size(2) % factor == 0, "avg_pool: H and W must be multiples of factor = ", factor,
        ": x is ", describe(x));
  Tensor y = empty({x.size(0), x.size(1) / factor, x.size(2) / factor, x.size(3)}, x.dtype(), x.device());
  kernel::avg_pool(y, x, factor);
  return record("avg_pool", y, {x}, [factor, shape = x.shape()](const Tensor& dy) -> Grads {
    Tensor dx = empty(shape, dy.dtype(), dy.device());
    kernel::avg_pool_backward(dx, dy, factor);
    return {dx};
  });
}

Tensor max_pool(const Tensor& x, int64_t factor) {
  check_floating("max_pool", {"x", x});
  check_axes("max_pool", {"x", x}, 4, "[N, H, W, C]");
  check(factor >= 1, "max_pool: factor must be at least 1, got ", factor);
  check(x.size(1) % factor == 0 && x.size(2) % factor == 0, "max_pool: H and W must be multiples of factor = ", factor,
        ": x is ", describe(x));
  Tensor y = empty({x.size(0), x.size(1) / factor, x.size(2) / factor, x.size(3)}, x.dtype(), x.device());
  kernel::max_pool(y, x, factor);
  if (!x.needs_grad()) return y;
  return record("max_pool", y, {x}, [factor, x_ = Saved(x)](const Tensor& dy) -> Grads {
    Tensor dx = empty_like(x_.get());
    kernel::max_pool_backward(dx, dy, x_.get(), factor);
    return {dx};
  });
}

// ---- Lookups -------------------------------------------------------------------------------------------------------

Tensor embedding(const Tensor& table, const Tensor& ids) {
  check_floating("embedding", {"table", table});
  check_axes("embedding", {"table", table}, 2, "[V, D]");
  check_defined("embedding", {"ids", ids});
  check(ids.dtype() == DType::i64, "embedding: ids must be i64, got ", describe(ids));
  check(ids.ndim() < kMaxAxes, "embedding: ids can have at most ", kMaxAxes - 1, " axes, got ", describe(ids));
  check_same_device("embedding", {"table", table}, {"ids", ids});
  check_ids("embedding", {"id", ids}, table.size(0), "rows of the table");
  Tensor flat_ids = ids.view({ids.numel()});
  Tensor y = empty({ids.numel(), table.size(1)}, table.dtype(), table.device());
  kernel::gather_rows(y, table, flat_ids);
  y = y.view(ids.shape().inserted(ids.ndim(), table.size(1)));
  if (!table.needs_grad()) return y;
  return record("embedding", y, {table}, [ids_ = Saved(flat_ids), shape = table.shape()](const Tensor& dy) -> Grads {
    Tensor dtable = empty(shape, dy.dtype(), dy.device());
    kernel::gather_rows_backward(dtable, ids_.get(), dy.view({ids_.get().numel(), shape[1]}));
    return {dtable};
  });
}

Tensor timestep_embedding(const Tensor& t, int64_t width, DType dtype, const TimeEmbedding& kind) {
  check_defined("timestep_embedding", {"t", t});
  check(t.dtype() == DType::f32 && t.ndim() == 1, "timestep_embedding: t must be [N] of f32, got ", describe(t));
  check(width >= 4 && width % 2 == 0, "timestep_embedding: the width must be even and at least 4, got ", width);
  check(is_floating(dtype), "timestep_embedding: the result must be floating, got ", dtype);
  check(kind.shift >= 0 && kind.shift < double(width / 2), "timestep_embedding: the shift of the frequencies must be 0 ",
        "or more and below half the width, ", width / 2, ", got ", kind.shift);
  Tensor y = empty({t.size(0), width}, dtype, t.device());
  kernel::timestep_embedding(y, t, kind);
  return y;
}

// ---- Losses --------------------------------------------------------------------------------------------------------

Tensor mse_loss(const Tensor& x, const Tensor& target) {
  check_defined("mse_loss", {"target", target});
  check_floating("mse_loss", {"x", x}, {{"target", target}});
  check_same_shape("mse_loss", {"x", x}, {"target", target});
  DType dtype = compute_dtype(x);
  double share = 1 / double(x.numel());   // infinite for an empty x: the mean of nothing is NaN
  Tensor error = empty(x.shape(), dtype, x.device());
  kernel::combine(error, {{1, x.to(dtype)}, {-1, target.to(dtype)}});
  Tensor total = empty({1}, DType::f64, x.device());
  kernel::sum_squares(total, error);
  kernel::combine(total, {{share, total}});
  Tensor loss = empty({}, dtype, x.device());
  kernel::convert(loss, total);

  bool need_x = x.needs_grad(), need_target = target.needs_grad();
  if (!need_x && !need_target) return loss;
  return record("mse_loss", loss, {x, target},
                [=, error_ = Saved(error), storage = x.dtype()](const Tensor& dloss) -> Grads {
                  auto gradient = [&](double sign) {   // sign 2/n dloss error
                    Tensor factor = empty_like(dloss), d = empty_like(error_.get());
                    kernel::combine(factor, {{sign * 2 * share, dloss}});
                    kernel::binary(d, error_.get(), factor, Binary::mul);
                    return d.to(storage);
                  };
                  return {need_x ? gradient(1) : Tensor(), need_target ? gradient(-1) : Tensor()};
                });
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target) {
  check_floating("cross_entropy", {"logits", logits});
  check_axes("cross_entropy", {"logits", logits}, 2, "[N, K]");
  check_defined("cross_entropy", {"target", target});
  check(target.dtype() == DType::i64 && target.shape() == Shape{logits.size(0)},
        "cross_entropy: target must be [N] of i64: logits is ", describe(logits), ", target is ", describe(target));
  check_same_device("cross_entropy", {"logits", logits}, {"target", target});
  check_ids("cross_entropy", {"target", target}, logits.size(1), "classes");
  double share = 1 / double(logits.size(0));
  Tensor losses = empty({logits.size(0)}, compute_dtype(logits), logits.device());
  kernel::cross_entropy(losses, logits, target);
  Tensor loss = empty({}, losses.dtype(), logits.device());
  kernel::sum_to(loss, losses);
  kernel::combine(loss, {{share, loss}});
  if (!logits.needs_grad()) return loss;
  return record("cross_entropy", loss, {logits},
                [=, logits_ = Saved(logits), target_ = Saved(target)](const Tensor& dloss) -> Grads {
                  const Tensor& logits = logits_.get();
                  Tensor each = empty_like(dloss), dlosses = empty({logits.size(0)}, dloss.dtype(), dloss.device());
                  kernel::combine(each, {{share, dloss}});
                  kernel::broadcast(dlosses, each);
                  Tensor dlogits = empty_like(logits);
                  kernel::cross_entropy_backward(dlogits, logits, target_.get(), dlosses);
                  return {dlogits};
                });
}

Tensor bce_with_logits_loss(const Tensor& logits, const Tensor& target) {
  check_defined("bce_with_logits_loss", {"target", target});
  check_floating("bce_with_logits_loss", {"logits", logits}, {{"target", target}});
  check_same_shape("bce_with_logits_loss", {"logits", logits}, {"target", target});
  DType dtype = compute_dtype(logits);
  return mean(bce_with_logits(cast(logits, dtype), cast(target, dtype)));
}

}  // namespace mote
