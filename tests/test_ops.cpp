// The generic checks that every row of the op table passes. A failure names the row; rows draw from their own seed.
#include <omp.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "tensor/cpu/amx.h"
#include "tests/op_checks.h"

namespace mote::test {
namespace {

std::string read_source(const std::string& path) {
  std::ifstream file(std::string(MOTE_TESTS_DIR) + "/../" + path);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The first group of every match, line by line.
std::set<std::string> names_in(const std::string& text, const std::regex& pattern) {
  std::set<std::string> names;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_search(line, match, pattern)) names.insert(match[1]);
  }
  return names;
}

std::set<std::string> declared_ops() {
  return names_in(read_source("autograd/ops.h"), std::regex(R"(^(?:Tensor|std::vector<Tensor>) (\w+)\()"));
}

}  // namespace

// ---- The table is complete -----------------------------------------------------------------------------------------

TEST_CASE("every op that ops.h declares has a row in the table and a call that it refuses", "[ops]") {
  std::set<std::string> rows, refused;
  for (const Row& row : op_table()) rows.insert(row.op);
  for (const BadCall& bad : bad_calls()) refused.insert(bad.op);
  CHECK(declared_ops().size() >= 49);   // the pattern still finds them
  CHECK(rows == declared_ops());
  CHECK(refused == declared_ops());
}

TEST_CASE("no two rows of the op table share a name", "[ops]") {
  std::set<std::string> names;
  for (const Row& row : op_table()) {
    INFO(row.name());
    CHECK(names.insert(row.name()).second);
  }
}

TEST_CASE("every op has a row with an empty input and a row with one element", "[ops]") {
  std::set<std::string> empty, single;
  for (const Row& row : op_table()) {
    if (row.is_empty()) empty.insert(row.op);
    if (row.is_one_element()) single.insert(row.op);
  }
  single.insert("attention");   // the smallest input holds three elements, one each of q, k and v
  CHECK(empty == declared_ops());
  CHECK(single == declared_ops());
}

TEST_CASE("every kernel is behind an op of the table or has a reason to have no gradient", "[ops]") {
  // Kernel -> the op whose rows run it, or after a dash why it is not differentiated.
  const std::map<std::string, std::string> covered = {
      {"fill", "- makes constants"},
      {"convert", "cast"},
      {"permute", "permute"},
      {"put_box", "concat"},
      {"get_box", "narrow"},
      {"broadcast", "broadcast_to"},
      {"unary", "exp"},
      {"unary_backward", "exp"},
      {"binary", "mul"},
      {"binary_backward", "mul"},
      {"accumulate", "- the engine's sum of gradients; a sum is linear"},
      {"combine", "sub"},
      {"combine_rows", "combine_rows"},
      {"dropout", "dropout"},
      {"random_uniform", "- draws depend on seed and offset only"},
      {"random_normal", "- draws depend on seed and offset only"},
      {"random_int", "- draws depend on seed and offset only"},
      {"sum_to", "sum"},
      {"max_axis", "max"},
      {"max_axis_backward", "max"},
      {"sum_squares", "mse_loss"},
      {"matmul", "matmul"},
      {"conv2d", "conv2d"},
      {"conv2d_dx", "conv2d"},
      {"conv2d_dw", "conv2d"},
      {"score_top", "- the solver of diffusion/ot/ makes its own gradient of the heights from it"},
      {"score_softmax", "- the solver of diffusion/ot/ makes its own gradient of the heights from it"},
      {"group_norm", "group_norm"},
      {"group_norm_backward", "group_norm"},
      {"softmax", "softmax"},
      {"softmax_backward", "softmax"},
      {"attention", "attention"},
      {"attention_backward", "attention"},
      {"upsample_nearest", "upsample_nearest"},
      {"upsample_nearest_backward", "upsample_nearest"},
      {"avg_pool", "avg_pool"},
      {"avg_pool_backward", "avg_pool"},
      {"max_pool", "max_pool"},
      {"max_pool_backward", "max_pool"},
      {"gather_rows", "embedding"},
      {"gather_rows_backward", "embedding"},
      {"cross_entropy", "cross_entropy"},
      {"cross_entropy_backward", "cross_entropy"},
      {"timestep_embedding", "- a step of the schedule is not optimised"},
      {"clip_scale", "- a number for adamw"},
      {"adamw", "- changes parameters in place, after backward"},
  };
  std::set<std::string> named;
  for (const auto& [kernel, by] : covered) {
    named.insert(kernel);
    INFO(kernel << ": " << by);
    CHECK((by[0] == '-' ? by.size() > 2 : declared_ops().count(by) == 1));
  }
  CHECK(named == names_in(read_source("tensor/kernels.h"), std::regex(R"(^MOTE_KERNEL\((\w+),)")));
}

// ---- Values --------------------------------------------------------------------------------------------------------

TEST_CASE("every op agrees with its plain f64 reference", "[ops]") {
  Threads one(1);
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const Row& row : op_table()) {
      INFO(row.name() << " in " << dtype << ", seed " << row.seed());
      // The reference sees the inputs as rounded to dtype: what is left is the error of the op itself.
      std::vector<Tensor> inputs = converted(row.make_inputs(row.shapes), dtype), fixed = row.make_fixed(row.shapes);
      Tensor expected = row.reference(arrays(inputs), arrays(fixed)).tensor();
      Tensor y = row.run(inputs, fixed);
      CHECK(compare(y, expected, forward_tolerance(row, is_floating(y.dtype()) ? y.dtype() : dtype)) == "");
    }
  }
}

TEST_CASE("the backward of every op matches central differences under a random cotangent", "[ops][grad]") {
  Threads one(1);
  int64_t checked = 0;
  for (const Row& row : op_table()) {
    if (!row.no_gradient.empty()) continue;
    INFO(row.name() << ", seed " << row.seed());
    std::vector<Tensor> fixed = row.make_fixed(row.shapes);
    GradReport report = gradcheck([&](In x) { return row.run(x, fixed); }, row.make_inputs(row.shapes), 1e-5, 40);
    INFO(report.where);
    CHECK(report.worst_relative < 1e-7);   // step^2 times a third derivative, plus 1e-16 / step: both near 1e-10
    checked += report.checked;
  }
  CHECK(checked > 5000);
}

TEST_CASE("f32 and bf16 gradients of every op are close to those in f64", "[ops][grad]") {
  Threads one(1);
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (const Row& row : op_table()) {
      if (!row.no_gradient.empty()) continue;
      INFO(row.name() << " in " << dtype << ", seed " << row.seed());
      std::vector<Tensor> inputs = converted(row.make_inputs(row.shapes), dtype), fixed = row.make_fixed(row.shapes);
      Result got = run_row(row, inputs, fixed), expected = run_row(row, converted(inputs, DType::f64), fixed);
      double tolerance = dtype == DType::f32 ? row.f32_tolerance : row.bf16_gradient_tolerance;
      for (size_t i = 0; i < got.gradients.size(); ++i) {
        INFO("gradient of input " << i);
        CHECK(got.gradients[i].dtype() == dtype);
        CHECK(compare(got.gradients[i], expected.gradients[i], tolerance) == "");
      }
    }
  }
}

TEST_CASE("every op agrees with itself in f64 on large inputs", "[ops][grad]") {
  Threads one(1);   // other counts give the same bits, which the next section checks on these inputs
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (const Row& row : op_table()) {
      if (row.large.empty()) continue;
      INFO(row.name() << " in " << dtype << ", seed " << row.seed());
      std::vector<Tensor> inputs = converted(row.make_inputs(row.large), dtype), fixed = row.make_fixed(row.large);
      Result got = run_row(row, inputs, fixed), expected = run_row(row, converted(inputs, DType::f64), fixed);
      if (is_floating(got.y.dtype()))
        CHECK(compare(got.y, expected.y, forward_tolerance(row, got.y.dtype())) == "");
      else
        CHECK(same_bits(got.y, expected.y));
      double tolerance = dtype == DType::f32 ? row.f32_tolerance : row.bf16_gradient_tolerance;
      for (size_t i = 0; i < got.gradients.size(); ++i) {
        INFO("gradient of input " << i);
        CHECK(compare(got.gradients[i], expected.gradients[i], tolerance) == "");
      }
    }
  }
}

TEST_CASE("products, convolutions and attention in tiles of AMX pass the same checks, for any number of threads",
          "[ops][grad][threads][amx]") {
  if (!cpu::AmxSwitch::possible()) {
    WARN("skipped: tiles need a build with AVX512-BF16, and AMX in the machine where it is compiled in");
    return;
  }
  cpu::AmxSwitch tiles(true);
  for (const Row& row : op_table()) {
    if (row.op != "matmul" && row.op != "linear" && row.op != "conv2d" && row.op != "attention") continue;
    for (const std::vector<Shape>& shapes : {row.shapes, row.large}) {
      if (shapes.empty()) continue;
      INFO(row.name() << (shapes == row.large ? ", large" : "") << ", seed " << row.seed());
      std::vector<Tensor> inputs = converted(row.make_inputs(shapes), DType::bf16), fixed = row.make_fixed(shapes);
      auto run_with = [&](int count) {
        Threads threads(count);
        return run_row(row, inputs, fixed);
      };
      Result got = run_with(1), expected = run_row(row, converted(inputs, DType::f64), fixed);
      CHECK(compare(got.y, expected.y, row.bf16_tolerance) == "");
      for (size_t i = 0; i < got.gradients.size(); ++i) {
        INFO("gradient of input " << i);
        CHECK(compare(got.gradients[i], expected.gradients[i], row.bf16_gradient_tolerance) == "");
      }
      for (int count : {2, 3, 7}) {
        INFO(count << " threads");
        check_same_bits(run_with(count), got);
      }
    }
  }
}

// ---- Where the numbers lie, and who computes them ------------------------------------------------------------------

TEST_CASE("every op gives the same bits for 1, 2, 3 and 7 threads, forward and backward", "[ops][threads]") {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (const Row& row : op_table()) {
      if (row.large.empty()) continue;   // a small input runs on one thread whatever the setting
      INFO(row.name() << " in " << dtype << ", seed " << row.seed());
      std::vector<Tensor> inputs = converted(row.make_inputs(row.large), dtype), fixed = row.make_fixed(row.large);
      Result expected = [&] {
        Threads one(1);
        return run_row(row, inputs, fixed);
      }();
      for (int count : dtype == DType::f32 ? std::vector<int>{2, 3, 7} : std::vector<int>{3}) {
        INFO(count << " threads");
        Threads threads(count);
        check_same_bits(run_row(row, inputs, fixed), expected);
      }
    }
  }
}

TEST_CASE("every op gives the same bits for an input that starts in the middle of a buffer", "[ops]") {
  Threads one(1);
  for (DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    for (const Row& row : op_table()) {
      INFO(row.name() << " in " << dtype << ", seed " << row.seed());
      auto in_the_middle = [](const Tensor& x, int64_t before) {   // NaN around it: a read outside would show
        Tensor buffer = full({x.numel() + before + 5}, is_floating(x.dtype()) ? NAN : -1e6, x.dtype());
        Tensor middle = buffer.rows(before, before + x.numel()).view(x.shape());
        middle.copy_(x);
        return middle;
      };
      std::vector<Tensor> inputs = converted(row.make_inputs(row.shapes), dtype), fixed = row.make_fixed(row.shapes);
      std::vector<Tensor> inputs_inside, fixed_inside;
      for (const Tensor& x : inputs) inputs_inside.push_back(in_the_middle(x, 3));
      for (const Tensor& x : fixed) fixed_inside.push_back(in_the_middle(x, 1));
      check_same_bits(run_row(row, inputs_inside, fixed_inside), run_row(row, inputs, fixed));
    }
  }
}

TEST_CASE("no op changes its inputs", "[ops]") {
  Threads one(1);
  for (const Row& row : op_table()) {
    INFO(row.name());
    std::vector<Tensor> inputs = converted(row.make_inputs(row.shapes), DType::f32), fixed = row.make_fixed(row.shapes);
    std::vector<Tensor> before;
    for (const Tensor& x : inputs) before.push_back(x.clone());
    run_row(row, inputs, fixed);
    for (size_t i = 0; i < inputs.size(); ++i) CHECK(same_bits(inputs[i], before[i]));
  }
}

// ---- Not a number --------------------------------------------------------------------------------------------------

TEST_CASE("a NaN in an input comes out of every op where the formula says so", "[ops][nan]") {
  Threads one(1);
  for (DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    for (const Row& row : op_table()) {
      std::vector<Tensor> clean = converted(row.make_inputs(row.shapes), dtype), fixed = row.make_fixed(row.shapes);
      for (size_t which = 0; which < clean.size(); ++which) {
        if (clean[which].numel() == 0) continue;
        for (int64_t element : {int64_t(0), clean[which].numel() / 2, clean[which].numel() - 1}) {
          INFO(row.name() << " in " << dtype << ", input " << which << ", element " << element);
          std::vector<Tensor> inputs = clean;
          inputs[which] = clean[which].clone();
          inputs[which].view({-1}).rows(element, element + 1).fill_(NAN);
          std::vector<double> expected = row.reference(arrays(inputs), arrays(fixed)).values();
          std::vector<double> got = run_row(row, inputs, fixed).y.to_vector();
          REQUIRE(got.size() == expected.size());
          int64_t lost = 0, spread = 0;
          for (size_t i = 0; i < got.size(); ++i) {
            lost += std::isnan(expected[i]) && !std::isnan(got[i]);
            spread += !std::isnan(expected[i]) && std::isnan(got[i]);
          }
          CHECK(lost == 0);
          if (!row.nan_spreads) CHECK(spread == 0);
        }
      }
    }
  }
}

// ---- Refusals ------------------------------------------------------------------------------------------------------

namespace {

/// The message of the Error that `call` throws; what it did instead otherwise.
std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.kind() == Error::Kind::argument ? error.what() : std::string("an Error of another kind: ") + error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("an op refuses calls outside its contract with an Error that names it", "[ops][errors]") {
  for (const BadCall& bad : bad_calls()) {
    INFO(bad.op << ": " << bad.what);
    std::string message = error_of(bad.call);
    INFO(message);
    CHECK(message.rfind(bad.op + ": ", 0) == 0);
    CHECK(message.find(bad.message) != std::string::npos);
  }
}

TEST_CASE("every op refuses undefined tensors, integers, and mixed dtypes", "[ops][errors]") {
  for (const Row& row : op_table()) {
    std::vector<Tensor> inputs = converted(row.make_inputs(row.shapes), DType::f32), fixed = row.make_fixed(row.shapes);
    auto refuses = [&](const std::vector<Tensor>& x, const std::vector<Tensor>& f, const std::string& what) {
      std::string message = error_of([&] { row.run(x, f); });
      INFO(row.name() << " with " << what << ": " << message);
      CHECK(message.rfind(row.op + ": ", 0) == 0);
    };
    // bias, shift and residual may be undefined
    bool optional = row.op == "conv2d" || row.op == "conv2d_transposed" || row.op == "linear";
    for (size_t i = 0; i < inputs.size(); ++i) {
      std::vector<Tensor> changed = inputs;
      changed[i] = Tensor();
      if (!optional || i < 2) refuses(changed, fixed, concat_text("input ", i, " undefined"));
      changed[i] = inputs[i].to(DType::f64);
      if (inputs.size() > 1) refuses(changed, fixed, concat_text("input ", i, " in f64"));
      changed[i] = inputs[i].to(DType::i32);
      if (row.any_dtype.empty()) refuses(changed, fixed, concat_text("input ", i, " of i32"));
    }
    // mul and div take their constant through a conversion in the row itself.
    if (row.op == "mul" || row.op == "div") continue;
    for (size_t i = 0; i < fixed.size(); ++i) {
      std::vector<Tensor> changed = fixed;
      changed[i] = Tensor();
      refuses(inputs, changed, concat_text("fixed argument ", i, " undefined"));
      changed[i] = fixed[i].to(DType::u8);
      refuses(inputs, changed, concat_text("fixed argument ", i, " of u8"));
    }
  }
}

TEST_CASE("ops that only move elements take integers", "[ops]") {
  for (const Row& row : op_table()) {
    if (row.any_dtype.empty() || row.shapes.empty()) continue;
    INFO(row.name());
    std::vector<Tensor> inputs;
    for (size_t i = 0; i < row.shapes.size(); ++i) {
      Generator generator{row.seed() + i};
      inputs.push_back(randint(-1000, 1000, row.shapes[i], generator).to(DType::i32));
    }
    Tensor y = row.run(inputs, {});
    CHECK(y.dtype() == DType::i32);
    CHECK(!y.needs_grad());
    if (row.op != "pad") CHECK_SAME(y, row.reference(arrays(inputs), {}).tensor());   // -1.5 becomes -1
  }
}

// ---- Functors ------------------------------------------------------------------------------------------------------

namespace {

struct UnaryCase {
  Unary op;
  const char* name;
  double (*formula)(double);
  bool (*domain)(double) = [](double) { return true; };   // where the f64 formula may be compared
  std::vector<double> kinks = {};
};

const std::vector<UnaryCase>& unary_cases() {
  static const auto not_zero = [](double x) { return x != 0; };
  static const auto positive = [](double x) { return x > 0; };
  static const std::vector<UnaryCase> cases = {
      {{Unary::affine, 2.5, -1}, "affine", [](double x) { return 2.5 * x - 1; }},
      {{Unary::exp}, "exp", [](double x) { return std::exp(x); }},
      {{Unary::log}, "log", [](double x) { return std::log(x); }, positive},
      {{Unary::sqrt}, "sqrt", [](double x) { return std::sqrt(x); }, positive},
      {{Unary::square}, "square", [](double x) { return x * x; }},
      {{Unary::reciprocal}, "reciprocal", [](double x) { return 1 / x; }, not_zero},
      {{Unary::abs}, "abs", [](double x) { return std::abs(x); }, {}, {0}},
      {{Unary::sin}, "sin", [](double x) { return std::sin(x); }},
      {{Unary::cos}, "cos", [](double x) { return std::cos(x); }},
      {{Unary::sigmoid}, "sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }},
      {{Unary::silu}, "silu", [](double x) { return x / (1 + std::exp(-x)); }},
      {{Unary::gelu}, "gelu", [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }},
      {{Unary::tanh}, "tanh", [](double x) { return std::tanh(x); }},
      {{Unary::relu}, "relu", [](double x) { return std::fmax(x, 0); }, {}, {0}},
      {{Unary::softplus}, "softplus", [](double x) { return x > 40 ? x : std::log1p(std::exp(x)); }},
      {{Unary::clamp, -1, 3}, "clamp", [](double x) { return std::fmin(std::fmax(x, -1), 3); }, {}, {-1, 3}},
      {{Unary::pow, 1.5}, "pow", [](double x) { return std::pow(x, 1.5); }, positive},
  };
  return cases;
}

const std::vector<double> kPoints = {0,    1e-3, -1e-3, 0.1, -0.1, 0.5,  -0.5, 1,   -1,  2,   -2,
                                     3.3,  -3.3, 7,     -7,  11.5, -12,  19,   -19, 33,  -33, 60,
                                     -60,  80,   -80,   87,  -87};

bool near(double got, double expected, double relative, double absolute = 0) {
  if (got == expected) return true;
  return std::abs(got - expected) <= absolute + relative * std::abs(expected);
}

}  // namespace

TEST_CASE("every unary functor agrees with the standard library, and its derivative with differences", "[ops][functors]") {
  std::set<int> kinds;
  for (const UnaryCase& unary : unary_cases()) {
    kinds.insert(unary.op.kind);
    visit(unary.op, [&](auto f) {
      for (double x : kPoints) {
        if (unary.domain && !unary.domain(x)) continue;
        INFO(unary.name << " at " << x);
        double expected = unary.formula(x);
        double wide = f.fwd(x);
        CHECK(near(wide, expected, 1e-13, 1e-15));
        float narrow = f.fwd(float(x));
        double of_rounded = unary.formula(double(float(x)));
        // An f32 result may differ by a few units in the last place; where it underflows, by the smallest normal.
        if (std::abs(of_rounded) < 3e38) CHECK(near(narrow, of_rounded, 2e-6, 2e-7 * std::min(1.0, std::abs(x)) + 1.2e-38));

        bool at_kink = false;
        for (double kink : unary.kinks) at_kink = at_kink || std::abs(x - kink) < 1e-9;
        if (at_kink) continue;
        double step = 1e-6 * std::max(1e-2, std::abs(x));
        double slope = (f.fwd(x + step) - f.fwd(x - step)) / (2 * step);
        auto kept = [&](auto value) {
          constexpr Keep keep = decltype(f)::keep;
          return keep == Keep::output ? f.fwd(value) : keep == Keep::input ? value : decltype(value)(NAN);
        };
        INFO("derivative: central difference " << slope);
        double scale = std::max(1.0, std::abs(wide));
        CHECK(near(-2 * slope, f.bwd(kept(x), -2.0), 1e-6, 1e-8 * scale));
        if (std::abs(slope) < 1e37) CHECK(near(f.bwd(kept(float(x)), 1.0f), slope, 1e-4, 1e-5 * std::min(scale, 10.0)));
      }
      double nan = f.fwd(double(NAN));
      float narrow_nan = f.fwd(float(NAN));
      INFO(unary.name << " at NaN");
      CHECK(std::isnan(nan));
      CHECK(std::isnan(narrow_nan));
    });
  }
  CHECK(int(kinds.size()) == Unary::pow + 1);   // pow is the last kind
}

TEST_CASE("unary functors have the limits of their formulas at infinity and at kinks", "[ops][functors]") {
  const float inf = INFINITY;
  CHECK(functor::Exp{}.fwd(inf) == inf);
  CHECK(functor::Exp{}.fwd(-inf) == 0);
  CHECK(functor::Exp{}.fwd(200.0f) == inf);
  CHECK(functor::Exp{}.fwd(-200.0f) == 0);
  CHECK(functor::Log{}.fwd(0.0f) == -inf);
  CHECK(std::isnan(functor::Log{}.fwd(-1.0f)));
  CHECK(functor::Sigmoid{}.fwd(inf) == 1);
  CHECK(functor::Sigmoid{}.fwd(-inf) < 2e-38f);
  CHECK(functor::Sigmoid{}.fwd(-200.0f) < 2e-38f);
  CHECK(functor::Sigmoid{}.fwd(-1000.0) == 0);
  CHECK(functor::Silu{}.fwd(100.0f) == 100);
  CHECK(std::abs(functor::Silu{}.fwd(-100.0f)) < 1e-30f);
  CHECK(std::abs(functor::Silu{}.bwd(-100.0f, 1.0f)) < 1e-30f);
  CHECK(functor::Silu{}.bwd(100.0f, 1.0f) == 1);
  CHECK(functor::Softplus{}.fwd(inf) == inf);
  CHECK(functor::Softplus{}.fwd(-inf) == 0);
  CHECK(functor::Tanh{}.fwd(inf) == 1);
  CHECK(functor::Relu{}.fwd(-inf) == 0);
  CHECK(functor::Relu{}.bwd(0.0f, 1.0f) == 0);
  CHECK(functor::Abs{}.bwd(0.0f, 1.0f) == 0);
  CHECK(functor::Clamp{-1, 1}.fwd(inf) == 1);
  CHECK(functor::Clamp{-1, 1}.bwd(1.0f, 3.0f) == 3);    // the interval is closed
  CHECK(functor::Clamp{-1, 1}.bwd(1.5f, 3.0f) == 0);
  CHECK(functor::Pow{2}.bwd(0.0f, 3.0f) == 0);
  CHECK(functor::Pow{0}.bwd(0.0f, 3.0f) == 0);          // x^0 is 1 everywhere
}

TEST_CASE("f32 exp and sigmoid keep the errors that math.h states", "[ops][functors]") {
  auto units = [](float got, double expected) { return std::abs(got - expected) / std::ldexp(1.0, std::ilogb(expected) - 23); };
  double worst_exp = 0, worst_sigmoid = 0;
  for (int k = -86900; k <= 87900; ++k) {
    float x = float(k) * 1e-3f;
    worst_exp = std::max(worst_exp, units(math::exp(x), std::exp(double(x))));
    worst_sigmoid = std::max(worst_sigmoid, units(math::sigmoid(x), 1 / (1 + std::exp(-double(x)))));
  }
  CHECK(worst_exp < 1.5);
  CHECK(worst_sigmoid < 3);
}

TEST_CASE("the f32 normal distribution keeps the errors that math.h states", "[ops][functors]") {
  double worst = 0, worst_share = 0;
  for (int k = -20000; k <= 20000; ++k) {
    float x = float(k) * 1e-3f;
    double expected = 0.5 * std::erfc(-double(x) / std::sqrt(2.0)), error = std::abs(math::normal_cdf(x) - expected);
    worst = std::max(worst, error);
    if (x >= -5) worst_share = std::max(worst_share, error / expected);
  }
  CHECK(worst < 2e-7);
  CHECK(worst_share < 1e-6);
}

TEST_CASE("max_pool gives the gradient of equal elements to the first of them", "[ops]") {
  Tensor x = from({5, 5, 3, 5, 5, 1, 5, 5}, {1, 2, 4, 1}).requires_grad();
  backward(sum(mul(max_pool(x), from({2, 7}, {1, 1, 2, 1}))));
  CHECK_SAME(x.grad(), from({2, 0, 0, 7, 0, 0, 0, 0}, {1, 2, 4, 1}));
}

TEST_CASE("every binary functor agrees with its formula, and its derivatives with differences", "[ops][functors]") {
  struct Case {
    Binary op;
    double (*formula)(double, double);
    bool kink_where_equal;
  };
  const std::vector<Case> cases = {
      {Binary::add, [](double a, double b) { return a + b; }, false},
      {Binary::sub, [](double a, double b) { return a - b; }, false},
      {Binary::mul, [](double a, double b) { return a * b; }, false},
      {Binary::div, [](double a, double b) { return a / b; }, false},
      {Binary::maximum, [](double a, double b) { return std::fmax(a, b); }, true},
      {Binary::minimum, [](double a, double b) { return std::fmin(a, b); }, true},
      {Binary::bce_with_logits, [](double x, double t) { return std::fmax(x, 0) - x * t + std::log1p(std::exp(-std::abs(x))); },
       false},
  };
  std::set<int> kinds;
  const std::vector<double> points = {0.25, -0.25, 1, -1, 0.7, 3, -2.5, 9, -17, 40};
  for (const Case& binary : cases) {
    kinds.insert(int(binary.op));
    visit(binary.op, [&](auto f) {
      for (double a : points)
        for (double b : points) {
          INFO("kind " << int(binary.op) << " at " << a << ", " << b);
          double expected = binary.formula(a, b), wide = f.fwd(a, b);
          CHECK(near(wide, expected, 1e-13, 1e-14));
          CHECK(near(f.fwd(float(a), float(b)), binary.formula(float(a), float(b)), 1e-6, 1e-5));
          if (binary.kink_where_equal && a == b) continue;
          double step = 1e-5;
          double slope_a = (f.fwd(a + step, b) - f.fwd(a - step, b)) / (2 * step);
          double slope_b = (f.fwd(a, b + step) - f.fwd(a, b - step)) / (2 * step);
          CHECK(near(f.bwd_a(a, b, -2.0), -2 * slope_a, 1e-6, 1e-6));
          CHECK(near(f.bwd_b(a, b, -2.0), -2 * slope_b, 1e-6, 1e-6));
          CHECK(near(f.bwd_a(float(a), float(b), 1.0f), slope_a, 1e-4, 1e-4));
          CHECK(near(f.bwd_b(float(a), float(b), 1.0f), slope_b, 1e-4, 1e-4));
        }
      for (auto [a, b] : {std::pair<double, double>{NAN, 1}, {1, NAN}}) {
        double y = f.fwd(a, b);
        CHECK(std::isnan(y));
      }
    });
  }
  CHECK(int(kinds.size()) == int(Binary::bce_with_logits) + 1);   // the last kind
  CHECK(functor::Maximum{}.bwd_a(2.0, 2.0, 3.0) == 1.5);
  CHECK(functor::Maximum{}.bwd_b(2.0, 2.0, 3.0) == 1.5);
  CHECK(functor::Minimum{}.bwd_a(2.0, 2.0, 3.0) == 1.5);
  CHECK(functor::Minimum{}.bwd_b(2.0, 2.0, 3.0) == 1.5);
  CHECK(functor::BceWithLogits{}.fwd(200.0f, 1.0f) == 0);         // -log(1)
  CHECK(functor::BceWithLogits{}.fwd(-200.0f, 1.0f) == 200);      // -log(e^-200): no overflow on the way
}

// ---- What rows cannot say ------------------------------------------------------------------------------------------

TEST_CASE("cast rounds to bf16 and back, and casts the gradient back", "[ops]") {
  Tensor x = from({1, 1.00390625, -3.14159, 65504}, {4}).requires_grad();   // 1 + 2^-8 lies between two bf16
  Tensor y = cast(x, DType::bf16);
  CHECK(y.dtype() == DType::bf16);
  CHECK_SAME(y, from({1, 1, -3.140625, 65536}, {4}, DType::bf16));
  backward(y, from({1, 2, 3, 1.00390625}, {4}, DType::bf16));
  CHECK(x.grad().dtype() == DType::f32);
  CHECK_SAME(x.grad(), from({1, 2, 3, 1}, {4}));
  CHECK(cast(x, DType::f32).node() == x.node());   // nothing to do: the tensor itself
}

TEST_CASE("losses of bf16 are f32 and keep the gradient in bf16", "[ops]") {
  Tensor x = from({1, 2, 3, 4}, {2, 2}, DType::bf16), target = from({0, 0.5, 1, 0.25}, {2, 2}, DType::bf16);
  Tensor classes = from({1, 0}, {2}, DType::i64);
  for (auto loss : {+[](const Tensor& x, const Tensor& target, const Tensor&) { return mse_loss(x, target); },
                    +[](const Tensor& x, const Tensor& target, const Tensor&) { return bce_with_logits_loss(x, target); },
                    +[](const Tensor& x, const Tensor&, const Tensor& classes) { return cross_entropy(x, classes); }}) {
    Tensor leaf = x.clone().requires_grad();
    Tensor y = loss(leaf, target, classes);
    CHECK(y.dtype() == DType::f32);
    CHECK(y.shape() == Shape{});
    backward(y);
    CHECK(leaf.grad().dtype() == DType::bf16);
  }
  CHECK(mse_loss(x, target).item() == Approx((1 + 2.25 + 4 + 14.0625) / 4));
}

TEST_CASE("dropout draws anew on each call, advances its generator, and drops a share of p", "[ops]") {
  Generator generator{5};
  Tensor x = full({1001, 7}, 1.0);
  Tensor first = dropout(x, 0.25, generator);
  CHECK(generator.offset == (7007 + 3) / 4);
  Tensor second = dropout(x, 0.25, generator);
  CHECK(difference(first, second, 0, 0) != "");
  double dropped = 0;
  for (double value : first.to_vector()) {
    CHECK((value == 0 || value == Approx(1 / 0.75)));
    dropped += value == 0;
  }
  CHECK(std::abs(dropped / 7007 - 0.25) < 0.021);   // four standard deviations of a binomial
  Generator unused{5};
  CHECK(dropout(x, 0, unused).raw() == x.raw());
  CHECK(unused.offset == 0);
}

TEST_CASE("an op computes and keeps only what the wanted gradients read", "[ops]") {
  Tensor x = full({2, 4, 4, 3}, 1.0), w = full({3, 3, 3, 5}, 1.0), bias = zeros({5});
  long users_x = x.use_count(), users_w = w.use_count();
  {
    Tensor leaf = bias.clone().requires_grad();
    Tensor y = conv2d(x, w, leaf, Conv2dSpec::same(3));
    CHECK(x.use_count() == users_x);   // the gradient of the bias reads neither
    CHECK(w.use_count() == users_w);
  }
  {
    Tensor leaf = w.clone().requires_grad();
    Tensor y = conv2d(x, leaf, bias, Conv2dSpec::same(3));
    CHECK(x.use_count() == users_x + 1);
    CHECK(leaf.use_count() == 1);
    backward(y, full(y.shape(), 1.0));
    CHECK(x.use_count() == users_x);   // freed as the walk went
    CHECK(leaf.grad().defined());
  }
  Tensor a = full({3}, 2.0).requires_grad(), b = full({3}, 3.0);
  Tensor sums = add(affine(a, 2, 1), b);
  CHECK(a.use_count() == 1);           // affine and add keep nothing
  CHECK(b.use_count() == 1);
  Tensor product = mul(a, b);
  CHECK(a.use_count() == 1);           // the gradient of a reads b only
  CHECK(b.use_count() == 2);
}

TEST_CASE("error messages of ops carry the rule, the shapes, and the numbers that were compared", "[ops][errors]") {
  Scope outer("unet"), inner("down.0.conv_in");
  CHECK(error_of([] { conv2d(zeros({8, 32, 32, 3}), zeros({3, 3, 4, 64}), {}, Conv2dSpec::same(3)); }) ==
        "conv2d: input channels do not match: x is f32[8, 32, 32, 3] (C = 3), weight is f32[3, 3, 4, 64] "
        "(expects C = 4)\n  while running unet.down.0.conv_in");
}

}  // namespace mote::test
