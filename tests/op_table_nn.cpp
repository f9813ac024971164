// The rows of autograd/ops_nn.cpp.
#include <cmath>

#include "tests/op_table.h"

namespace mote::test {
namespace {

// ---- Norm, softmax, attention --------------------------------------------------------------------------------------

Array reference_group_norm(const Array& x, const Array& gamma, const Array& beta, int64_t groups, double eps, bool silu) {
  int64_t channels = x.size(3), width = channels / groups;
  Array y(x.shape());
  auto each_of_group = [&](int64_t image, int64_t group, auto fn) {
    for (int64_t i = 0; i < x.size(1); ++i)
      for (int64_t j = 0; j < x.size(2); ++j)
        for (int64_t c = group * width; c < (group + 1) * width; ++c) fn(image, i, j, c);
  };
  double count = double(x.size(1) * x.size(2) * width);
  for (int64_t image = 0; image < x.size(0); ++image)
    for (int64_t group = 0; group < groups; ++group) {
      double mean = 0, variance = 0;
      each_of_group(image, group, [&](auto... at) { mean += x(at...) / count; });
      each_of_group(image, group, [&](auto... at) { variance += (x(at...) - mean) * (x(at...) - mean) / count; });
      each_of_group(image, group, [&](int64_t n, int64_t i, int64_t j, int64_t c) {
        double z = gamma(c) * (x(n, i, j, c) - mean) / std::sqrt(variance + eps) + beta(c);
        y(n, i, j, c) = silu ? z / (1 + std::exp(-z)) : z;
      });
    }
  return y;
}

void add_group_norm(std::vector<Row>& table) {
  auto add = [&](const std::string& variant, const Shape& x, int64_t groups, bool silu, const Shape& large = {},
                 double eps = 1e-6) -> Row& {
    Run run = [=](In x, In) { return group_norm(x[0], x[1], x[2], groups, eps, silu); };
    Reference reference = [=](const Arrays& x, const Arrays&) {
      return reference_group_norm(x[0], x[1], x[2], groups, eps, silu);
    };
    table.push_back({"group_norm", variant, {x, {x[3]}, {x[3]}}, run, reference});
    if (large.ndim()) table.back().with_large({large, {large[3]}, {large[3]}});
    return table.back();
  };
  for (bool silu : {false, true}) {
    std::string end = silu ? ", silu" : "";
    add("2 groups" + end, {2, 3, 4, 6}, 2, silu, {3, 17, 19, 66});
    add("1 group" + end, {2, 3, 2, 4}, 1, silu, {3, 17, 19, 33});
    add("a group a channel" + end, {2, 3, 4, 3}, 3, silu, {5, 33, 31, 3});
    add("33 channels in 3 groups" + end, {1, 2, 3, 33}, 3, silu, {2, 28, 28, 33});
    add("1 channel" + end, {2, 3, 5, 1}, 1, silu, {3, 57, 55, 1});
    add("8 groups of 16" + end, {1, 2, 2, 128}, 8, silu, {4, 16, 16, 128});
    add("300 channels in 5 groups" + end, {1, 2, 3, 300}, 5, silu, {2, 13, 11, 300});
    add("no images" + end, {0, 2, 2, 4}, 2, silu);
  }
  add("one element", {1, 1, 1, 1}, 1, true, {}, 0.1);
  add("one pixel", {2, 1, 1, 6}, 2, false);
  add("no pixels", {2, 0, 2, 4}, 2, true);
}

Array reference_softmax(const Array& x, bool log) {
  Array y(x.shape());
  int64_t length = x.size(-1);
  each_index(x.shape(), [&](const Index& at) {
    Index other = at;
    // Relative to the element itself: e^x_i / sum e^x_j = 1 / sum e^(x_j - x_i).
    double sum = 0;
    for (other.back() = 0; other.back() < length; ++other.back()) sum += std::exp(x.at(other) - x.at(at));
    y.at(at) = log ? -std::log(sum) : 1 / sum;
  });
  return y;
}

void add_softmax(std::vector<Row>& table) {
  for (bool log : {false, true}) {
    auto add = [&](const std::string& variant, const Shape& shape) -> Row& {
      table.push_back({log ? "log_softmax" : "softmax", variant, {shape},
                       [log](In x, In) { return log ? log_softmax(x[0]) : softmax(x[0]); },
                       [log](const Arrays& x, const Arrays&) { return reference_softmax(x[0], log); }});
      return table.back();
    };
    add("rows", {3, 5}).with_large({{1031, 133}});
    add("three axes", {2, 3, 7}).with_large({{3, 5, 10007}});
    add("33 wide", {2, 33}).with_large({{8111, 17}});
    add("one wide", {4, 1});
    add("far from zero", {3, 5}).drawn([](const Shape& shape, size_t, Generator& generator) {
      return affine(normal(shape, DType::f64, generator), 8, 40);
    });
    add("one element", {1});
    add("no rows", {0, 3});
    add("rows of nothing", {3, 0});
  }
}

Array reference_attention(const Array& qkv, int64_t heads) {
  int64_t tokens = qkv.size(1), channels = qkv.size(2) / 3, width = channels / heads;
  Array y({qkv.size(0), tokens, channels});
  for (int64_t image = 0; image < qkv.size(0); ++image)
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t query = 0; query < tokens; ++query) {
        std::vector<double> score(tokens, 0.0);
        for (int64_t key = 0; key < tokens; ++key)
          for (int64_t d = head * width; d < (head + 1) * width; ++d)
            score[key] += qkv(image, query, d) * qkv(image, key, channels + d) / std::sqrt(double(width));
        double total = 0;
        for (double s : score) total += std::exp(s);
        for (int64_t key = 0; key < tokens; ++key)
          for (int64_t d = head * width; d < (head + 1) * width; ++d)
            y(image, query, d) += std::exp(score[key]) / total * qkv(image, key, 2 * channels + d);
      }
  return y;
}

void add_attention(std::vector<Row>& table) {
  auto add = [&](const std::string& variant, const Shape& shape, int64_t heads) -> Row& {
    table.push_back({"attention", variant, {shape}, [heads](In x, In) { return attention(x[0], heads); },
                     [heads](const Arrays& x, const Arrays&) { return reference_attention(x[0], heads); }});
    return table.back();
  };
  add("1 head", {2, 5, 12}, 1).with_large({{3, 49, 96}});
  add("2 heads", {2, 4, 12}, 2).with_large({{3, 131, 2 * 3 * 16}});
  add("3 heads, odd widths", {1, 7, 27}, 3).with_large({{2, 67, 3 * 3 * 33}});
  add("heads of one channel", {2, 3, 6}, 2);
  add("33 tokens", {1, 33, 6}, 1).with_large({{2, 257, 3 * 40}});
  add("1 token", {3, 1, 6}, 1);
  add("one element of each", {1, 1, 3}, 1);
  add("no images", {0, 4, 6}, 1);
  add("no tokens", {2, 0, 6}, 2);
}

// ---- Resampling ----------------------------------------------------------------------------------------------------

void add_resampling(std::vector<Row>& table) {
  auto upsample = [&](const std::string& variant, const Shape& shape, int64_t factor) -> Row& {
    table.push_back({"upsample_nearest", variant, {shape},
                     [factor](In x, In) { return upsample_nearest(x[0], factor); },
                     [factor](const Arrays& x, const Arrays&) {
                       const Array& a = x[0];
                       Array y({a.size(0), a.size(1) * factor, a.size(2) * factor, a.size(3)});
                       each_index(y.shape(), [&](const Index& i) {
                         y.at(i) = a(i[0], i[1] / factor, i[2] / factor, i[3]);
                       });
                       return y;
                     }});
    return table.back();
  };
  auto pool = [&](const std::string& variant, const Shape& shape, int64_t factor) -> Row& {
    table.push_back({"avg_pool", variant, {shape}, [factor](In x, In) { return avg_pool(x[0], factor); },
                     [factor](const Arrays& x, const Arrays&) {
                       const Array& a = x[0];
                       Array y({a.size(0), a.size(1) / factor, a.size(2) / factor, a.size(3)});
                       each_index(a.shape(), [&](const Index& i) {
                         y(i[0], i[1] / factor, i[2] / factor, i[3]) += a.at(i) / double(factor * factor);
                       });
                       return y;
                     }});
    return table.back();
  };
  auto max_of = [&](const std::string& variant, const Shape& shape, int64_t factor) -> Row& {
    table.push_back({"max_pool", variant, {shape}, [factor](In x, In) { return max_pool(x[0], factor); },
                     [factor](const Arrays& x, const Arrays&) {
                       const Array& a = x[0];
                       Array y({a.size(0), a.size(1) / factor, a.size(2) / factor, a.size(3)}, -INFINITY);
                       each_index(a.shape(), [&](const Index& i) {
                         double& most = y(i[0], i[1] / factor, i[2] / factor, i[3]);
                         most = larger(most, a.at(i));
                       });
                       return y;
                     }});
    // Whole numbers in a mixed order, the first 257 of them distinct and exact in bf16: no difference or rounding leads
    // from one largest element to another.
    return table.back().drawn([](const Shape& shape, size_t, Generator&) {
      std::vector<double> values;
      for (int64_t i = 0; i < shape.numel(); ++i) values.push_back(double(i * 89 % 257 - 128));
      return from(values, shape, DType::f64);
    });
  };
  max_of("", {2, 4, 6, 3}, 2).with_large({{3, 30, 28, 33}});
  max_of("by 3", {1, 3, 6, 5}, 3).with_large({{3, 33, 30, 17}});
  max_of("by 1", {1, 2, 3, 1}, 1);
  max_of("one element", {1, 1, 1, 1}, 1);
  max_of("no images", {0, 2, 2, 3}, 2);
  upsample("", {2, 3, 4, 3}, 2).with_large({{3, 31, 29, 33}});
  upsample("by 3", {1, 2, 3, 5}, 3).with_large({{3, 31, 29, 17}});
  upsample("by 1", {1, 2, 3, 1}, 1);
  upsample("one element", {1, 1, 1, 1}, 1);
  upsample("no images", {0, 2, 2, 3}, 2);
  pool("", {2, 4, 6, 3}, 2).with_large({{3, 62, 58, 33}});
  pool("by 3", {1, 3, 6, 5}, 3).with_large({{3, 93, 87, 17}});
  pool("by 1", {1, 2, 3, 1}, 1);
  pool("whole image", {2, 4, 4, 3}, 4);
  pool("one element", {1, 1, 1, 1}, 1);
  pool("no images", {0, 2, 2, 3}, 2);
}

// ---- Lookups -------------------------------------------------------------------------------------------------------

void add_lookups(std::vector<Row>& table) {
  auto add = [&](const std::string& variant, const Shape& rows, const Shape& ids) -> Row& {
    Run run = [](In x, In fixed) { return embedding(x[0], fixed[0]); };
    Reference reference = [](const Arrays& x, const Arrays& fixed) {
      Array y(fixed[0].shape().inserted(fixed[0].shape().ndim(), x[0].size(1)));
      each_index(y.shape(), [&](const Index& i) {
        Index which(i.begin(), i.end() - 1);
        y.at(i) = x[0](int64_t(fixed[0].at(which)), i.back());
      });
      return y;
    };
    table.push_back(Row{"embedding", variant, {rows}, run, reference}.with_fixed(
        [ids](const std::vector<Shape>& shapes, Generator& generator) {
          return std::vector<Tensor>{draw_ids(ids, std::max<int64_t>(shapes[0][0], 1), generator)};
        }));
    return table.back();
  };
  add("ids repeat", {4, 3}, {9});
  add("two axes of ids", {5, 3}, {2, 3});
  add("one id", {5, 3}, {});
  add("many ids, wide", {53, 33}, {5003});
  add("one element", {1, 1}, {1});
  add("no ids", {4, 3}, {0});
  add("an empty table", {0, 3}, {0});

  auto embed_time = [&](const std::string& variant, std::vector<double> times, int64_t width, DType dtype,
                        const TimeEmbedding& kind = {}) -> Row& {
    Run run = [=](In, In fixed) { return timestep_embedding(fixed[0], width, dtype, kind); };
    Reference reference = [=](const Arrays&, const Arrays& fixed) {
      Array y({fixed[0].size(0), width});
      int64_t half = width / 2;
      for (int64_t n = 0; n < fixed[0].size(0); ++n)
        for (int64_t i = 0; i < half; ++i) {
          double angle = fixed[0](n) * std::exp(-std::log(10000.0) * double(i) / (double(half) - kind.shift));
          y(n, kind.cos_first ? half + i : i) = std::sin(angle);
          y(n, kind.cos_first ? i : half + i) = std::cos(angle);
        }
      return y;
    };
    table.push_back(Row{"timestep_embedding", variant, {}, run, reference}
                        .with_fixed([times](auto&, auto&) {
                          return std::vector<Tensor>{from(times, {int64_t(times.size())}, DType::f32)};
                        })
                        .without_gradient("a step of the schedule is not optimised")
                        .of_any_dtype("the only argument is f32 and fixed"));
    return table.back();
  };
  std::vector<double> times{0, 1, 17, 500.25, 999};
  embed_time("f32", times, 128, DType::f32);
  embed_time("f64", times, 6, DType::f64);
  embed_time("bf16", times, 32, DType::bf16);
  embed_time("one step, narrowest", {3}, 4, DType::f32);
  embed_time("cosines first, no shift", times, 10, DType::f64, {true, 0});
  embed_time("a shift of 1/2", times, 4, DType::f32, {false, 0.5});
  embed_time("no steps", {}, 8, DType::f32);
}

// ---- Losses --------------------------------------------------------------------------------------------------------

void add_losses(std::vector<Row>& table) {
  auto add_mse = [&](const std::string& variant, const Shape& shape) -> Row& {
    table.push_back({"mse_loss", variant, {shape, shape}, [](In x, In) { return mse_loss(x[0], x[1]); },
                     [](const Arrays& x, const Arrays&) {
                       Array y{Shape{}};
                       each_index(x[0].shape(), [&](const Index& i) {
                         y() += (x[0].at(i) - x[1].at(i)) * (x[0].at(i) - x[1].at(i));
                       });
                       y() /= double(x[0].values().size());
                       return y;
                     }});
    return table.back();
  };
  add_mse("images", {2, 3, 4, 3}).with_large({{5, 33, 31, 33}, {5, 33, 31, 33}});
  add_mse("scalars", {});
  add_mse("one element", {1, 1});
  add_mse("empty", {0, 3});

  auto add_cross_entropy = [&](const std::string& variant, const Shape& shape) -> Row& {
    table.push_back(Row{"cross_entropy", variant, {shape}, [](In x, In fixed) { return cross_entropy(x[0], fixed[0]); },
                        [](const Arrays& x, const Arrays& fixed) {
                          Array y{Shape{}};
                          for (int64_t n = 0; n < x[0].size(0); ++n) {
                            double sum = 0;
                            for (int64_t k = 0; k < x[0].size(1); ++k) sum += std::exp(x[0](n, k));
                            y() += std::log(sum) - x[0](n, int64_t(fixed[0](n)));
                          }
                          y() /= double(x[0].size(0));
                          return y;
                        }}
                        .with_fixed([](const std::vector<Shape>& shapes, Generator& generator) {
                          return std::vector<Tensor>{draw_ids({shapes[0][0]}, shapes[0][1], generator)};
                        }));
    return table.back();
  };
  add_cross_entropy("", {5, 7}).with_large({{4099, 37}});
  add_cross_entropy("33 classes", {3, 33}).with_large({{131, 1031}});
  add_cross_entropy("one class", {3, 1});
  add_cross_entropy("one element", {1, 1});
  add_cross_entropy("no rows", {0, 3});

  auto add_bce = [&](const std::string& variant, const Shape& shape) -> Row& {
    table.push_back(Row{"bce_with_logits_loss", variant, {shape, shape},
                        [](In x, In) { return bce_with_logits_loss(x[0], x[1]); },
                        [](const Arrays& x, const Arrays&) {
                          Array y{Shape{}};
                          each_index(x[0].shape(), [&](const Index& i) {
                            double p = 1 / (1 + std::exp(-x[0].at(i))), t = x[1].at(i);
                            y() -= t * std::log(p) + (1 - t) * std::log(1 - p);
                          });
                          y() /= double(x[0].values().size());
                          return y;
                        }}
                        .drawn([](const Shape& shape, size_t which, Generator& generator) {
                          return which == 0 ? normal(shape, DType::f64, generator)
                                            : uniform(shape, DType::f64, generator);
                        }));
    return table.back();
  };
  add_bce("", {3, 5}).with_large({{37, 4099}, {37, 4099}});
  add_bce("scalars", {});
  add_bce("one element", {1});
  add_bce("empty", {0, 3});
}

}  // namespace

void add_nn_rows(std::vector<Row>& table) {
  add_group_norm(table);
  add_softmax(table);
  add_attention(table);
  add_resampling(table);
  add_lookups(table);
  add_losses(table);
}

}  // namespace mote::test
