#include "diffusion/guidance.h"

#include <cmath>

namespace mote {

Network guided(ConditionalNetwork network, const Tensor& class_ids, int64_t null_class, double w) {
  check(network != nullptr, "guided: no network given");
  check(class_ids.defined() && class_ids.dtype() == DType::i64 && class_ids.ndim() == 1,
        "guided: class ids must be i64[N], got ", describe(class_ids));
  if (!std::isfinite(w)) fail(Error::Kind::usage, "guidance weight must be finite, got ", w);
  int64_t N = class_ids.size(0);
  Tensor null_ids = full(class_ids.shape(), double(null_class), DType::i64, class_ids.device());
  auto check_batch = [N](const Tensor& x) {
    check(x.ndim() >= 1 && x.size(0) == N, "guided: there are ", N, " class ids, but x is ", describe(x));
  };

  if (w == 0 || w == 1) {
    Tensor ids = w == 0 ? null_ids : class_ids;
    return [network = std::move(network), ids, check_batch](const Tensor& x, double t) {
      check_batch(x);
      return network(x, t, ids);
    };
  }
  Tensor ids = empty(Shape{2 * N}, DType::i64, class_ids.device());
  kernel::put_box(ids, class_ids, {0});
  kernel::put_box(ids, null_ids, {N});
  return [network = std::move(network), ids, check_batch, N, w](const Tensor& x, double t) {
    check_batch(x);
    Tensor outputs = network(concat({x, x}, 0), t, ids);
    check(outputs.ndim() >= 1 && outputs.size(0) == 2 * N, "guided: the network was given ", 2 * N,
          " samples and returned ", describe(outputs));
    return w * slice(outputs, 0, N) + (1 - w) * slice(outputs, N, 2 * N);
  };
}

}  // namespace mote
