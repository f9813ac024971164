// The solver against heights that are known: in one dimension, on lines, by symmetry, on the unit square; convergence
// against samples, empty cells, saving, the same bits. What chi2 says is in test_ot_quality.cpp.
#include <algorithm>
#include <fstream>
#include <numbers>
#include <numeric>

#include "diffusion/ot/map.h"
#include "diffusion/ot/method.h"
#include "diffusion/ot/normal.h"
#include "tensor/kernels.h"
#include "tests/ot_support.h"

using namespace mote;
using namespace mote::ot;
using namespace mote::test;

namespace {

/// Options for a small problem whose heights are wanted to some digits: no certificate ends it, a million samples do.
SolverOptions accurate(int64_t N, double samples = 1e6) {
  SolverOptions options;
  options.chi2 = 1e-12;
  options.max_samples = kFewer * samples / double(N);
  options.batch = int64_t(kFewer * 1000);
  options.finish_empty = false;
  options.seed = 3;
  return options;
}

/// Heights for the points as given under N(0, I): rows are (y - mean) / scale, and a shift of y changes no cell.
std::vector<double> given_heights(const Targets& targets, const Tensor& heights) {
  std::vector<double> result = from_first(heights);
  for (double& height : result) height *= targets.scale();
  return result;
}

/// The same under the unit cube: x_raw = 1/2 + x / sqrt(12), so <x_raw, y> = sum_d y_d / 2 + <x, y> / sqrt(12).
std::vector<double> unit_cube_heights(const Targets& targets, const Tensor& y, const Tensor& heights) {
  std::vector<double> result = given_heights(targets, heights), half(result.size(), 0.0);
  for (int64_t i = 0; i < y.size(0); ++i)
    for (int64_t d = 0; d < y.size(1); ++d) half[size_t(i)] += double(y.data<float>()[i * y.size(1) + d]) / 2;
  for (size_t i = 0; i < result.size(); ++i) result[i] = result[i] / std::sqrt(12.0) - (half[i] - half[0]);
  return result;
}

std::string apart_all(const std::vector<double>& got, const std::vector<double>& expected, double absolute) {
  int64_t n = int64_t(expected.size());
  return difference(from(got, {n}, DType::f64), from(expected, {n}, DType::f64), kLooser * absolute, 0);
}

Targets weighted(const Tensor& y, const std::vector<double>& weights) {
  TargetOptions options;
  options.weights = weights;
  return Targets::in_memory(y, options);
}

/// Grey, smooth images of different brightness and contrast: like data, and unlike independent directions.
Tensor image_like(int64_t N, int64_t side) {
  Tensor noise = draw({N, side, side}, 5), light = draw({N, 2}, 6), y = empty({N, side * side});
  for (int64_t n = 0; n < N; ++n)
    for (int64_t i = 0; i < side; ++i)
      for (int64_t j = 0; j < side; ++j) {
        double sum = 0;
        for (int64_t a = 0; a < 3; ++a)
          for (int64_t b = 0; b < 3; ++b)
            sum += double(noise.data<float>()[(n * side + (i + a) % side) * side + (j + b) % side]) / 3;
        double contrast = 0.3 * std::exp(0.3 * double(light.data<float>()[2 * n])),
               bright = 0.1 * double(light.data<float>()[2 * n + 1]);
        y.data<float>()[(n * side + i) * side + j] = float(contrast * sum + bright);
      }
  return y;
}

}  // namespace

// ---- Known heights -------------------------------------------------------------------------------------------------

TEST_CASE("upper_quantile gives back the tails of the normal distribution", "[ot][solver]") {
  CHECK(apart(upper_quantile(0.5), 0, 1e-15) == "");
  CHECK(apart(upper_quantile(0.3), 0.524400512708041, 1e-13) == "");
  for (double z : {-3.0, -1.0, 0.2, 1.7, 4.0, 9.0, 25.0})
    CHECK(apart(upper_quantile(0.5 * std::erfc(z / std::sqrt(2.0))), z, 1e-12) == "");
  CHECK(caught([] { upper_quantile(0); }).kind == Error::Kind::argument);
}

TEST_CASE("in one dimension the heights follow from the quantiles of the source", "[ot][solver]") {
  Tensor y = f32({-1, 0, 0.5, 2}, {4, 1});
  Targets targets = weighted(y, {0.1, 0.4, 0.3, 0.2});
  {
    Source source = source_of(targets);
    Solver solver(targets, source, accurate(4));
    SolverResult result = solver.run();
    CHECK(apart_all(given_heights(targets, result.heights), {0, 1.28155157, 1.28155157, 0.01911972}, 5e-3) == "");
    CHECK(!result.converged);  // nothing can be as near as was asked for; that is a result
    // E(h*) = .794912352744916 and W2^2 = .385175294510169; the source and centring change neither but for known terms:
    // transport_cost is of rows and of a source of variance 1 whose mean is that of the targets.
    Quality quality = measure(targets, result.heights, source, 77, int64_t(kFewer * 400'000));
    double scale = targets.scale(), mean = double(targets.mean().data<float>()[0]), squares = 0;
    for (int64_t i = 0; i < 4; ++i) squares += targets.weights()[size_t(i)] * std::pow(double(y.data<float>()[i]), 2);
    // |x - y|^2 from <x, y> = scale <x, row> + x mean, whose last term has mean 0.
    double cost =
        1 + squares -
        scale * (1 + (squares - mean * mean) / (scale * scale) - transport_cost(targets, result.heights, quality));
    CHECK(apart_all({cost}, {0.385175294510169}, 8e-3) == "");  // 4 sd of the mean of 400 000 potentials
  }
  Source cube = source_of(targets, Source::Kind::cube);
  Solver solver(targets, cube, accurate(4));
  CHECK(apart_all(unit_cube_heights(targets, y, solver.run().heights), {0, -0.1, -0.35, -1.55}, 5e-3) == "");
}

TEST_CASE("a grid on the unit interval has heights -(y^2 - y_1^2) / 2", "[ot][solver]") {
  Tensor y = f32({0.1, 0.3, 0.5, 0.7, 0.9}, {5, 1});
  Targets targets = Targets::in_memory(y);
  Source source = source_of(targets, Source::Kind::cube);
  Solver solver(targets, source, accurate(5, 3e5));
  CHECK(apart_all(unit_cube_heights(targets, y, solver.run().heights), {0, -0.04, -0.12, -0.24, -0.4}, 2e-3) == "");
}

TEST_CASE("two targets in any dimension are parted by one quantile", "[ot][solver]") {
  for (int64_t D : {1, 3, 50}) {
    Tensor y = zeros({2, D});
    y.data<float>()[0] = 1;
    y.data<float>()[D] = -1;
    Targets targets = weighted(y, {0.3, 0.7});
    Solver solver(targets, source_of(targets), accurate(2));
    INFO("D " << D);
    // sd |y_1 - y_2| sqrt(w (1 - w) / n) / density = .0026, and 15 % more for the weights of the average
    CHECK(apart_all(given_heights(targets, solver.run().heights), {0, 1.04880102541608}, 1.2e-2) == "");
  }
}

TEST_CASE("targets on a line have the heights of one dimension, far away and in 3072 dimensions of bf16",
          "[ot][solver]") {
  int64_t D = 3072;
  Tensor v = draw({D}, 1), c = draw({D}, 2), y = empty({4, D});
  double norm = 0;
  for (double value : v.to_vector()) norm += value * value;
  const double t[] = {-3, -1, 0, 2};
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t d = 0; d < D; ++d)
      y.data<float>()[i * D + d] = c.data<float>()[d] + float(t[i] / std::sqrt(norm)) * v.data<float>()[d];
  TargetOptions target_options;
  target_options.dtype = DType::bf16;
  Targets targets = Targets::in_memory(y, target_options);
  SolverOptions options = accurate(4, 40'000);
  options.rank_reduction = false;
  Solver solver(targets, source_of(targets), options);
  // 40 000 samples leave an error of |y_i - y_j| sqrt(w (1 - w) / n) / density = .02; bf16 moves targets by .01.
  CHECK(apart_all(given_heights(targets, solver.run().heights), {0, 1.3489795, 1.3489795, 0}, 0.05) == "");
}

TEST_CASE("symmetric targets have equal heights, and products of targets have sums", "[ot][solver]") {
  Tensor unit = zeros({6, 6});
  for (int64_t i = 0; i < 6; ++i) unit.data<float>()[7 * i] = 1;
  Targets targets = Targets::in_memory(unit);
  SolverResult result = Solver(targets, source_of(targets), accurate(6, 4e5)).run();
  CHECK(apart_all(from_first(result.heights), std::vector<double>(6, 0.0), 1e-2) == "");
  CHECK(result.quality.largest < 1 + kLooser * 0.15);  // 4 sd of counts near 720

  Tensor corners = empty({8, 3});
  for (int64_t i = 0; i < 24; ++i) corners.data<float>()[i] = (i / 3) >> (i % 3) & 1 ? 1.0f : -1.0f;
  targets = Targets::in_memory(corners);
  result = Solver(targets, source_of(targets), accurate(8, 4e5)).run();
  CHECK(apart_all(from_first(result.heights), std::vector<double>(8, 0.0), 1e-2) == "");

  // {-1, 0, 2} x {0, 1} under N(0, I), equal weights: each axis by its own quantiles.
  Tensor grid = f32({-1, 0, 0, 0, 2, 0, -1, 1, 0, 1, 2, 1}, {6, 2});
  targets = Targets::in_memory(grid);
  double third = upper_quantile(1.0 / 3);  // b = -third, third for the first axis, 0 for the second
  std::vector<double> expected = {0, third, third - 2 * third, 0, third, -third};
  result = Solver(targets, source_of(targets), accurate(6)).run();
  CHECK(apart_all(given_heights(targets, result.heights), expected, 1e-2) == "");
}

TEST_CASE("on the unit square the heights are those of exact areas", "[ot][solver]") {
  struct Case {
    std::vector<double> y, weights, heights;
  };
  const std::vector<double> three = {0.2, 0.3, 0.7, 0.2, 0.5, 0.8},
                            five = {0.1, 0.1, 0.9, 0.2, 0.5, 0.5, 0.2, 0.8, 0.8, 0.9};
  const std::vector<Case> cases = {
      {{0.25, 0.5, 0.75, 0.5}, {0.3, 0.7}, {0, -0.15}},
      {{0.25, 0.25, 0.75, 0.25, 0.25, 0.75, 0.75, 0.75}, {}, {0, -0.25, -0.25, -0.5}},
      {three, {0.2, 0.3, 0.5}, {0, -0.169390973830074, -0.320697671814973}},
      {three, {}, {0, -0.203756068800272, -0.428906199893998}},
      {five, {}, {0, -0.433037725160326, -0.267997151954828, -0.356816809521890, -0.726398658094189}},
      {five,
       {0.1, 0.15, 0.4, 0.05, 0.3},
       {0, -0.378009809471830, -0.178885438199983, -0.377158249583975, -0.601286522134039}}};
  for (const Case& one : cases) {
    int64_t N = int64_t(one.heights.size());
    Tensor y = f32(one.y, {N, 2});
    Targets targets = weighted(y, one.weights);
    SolverResult result = Solver(targets, source_of(targets, Source::Kind::cube), accurate(N)).run();
    INFO(N << " targets, the first weight " << targets.weights()[0]);
    CHECK(apart_all(unit_cube_heights(targets, y, result.heights), one.heights, 5e-3) == "");
  }
}

// ---- Convergence ---------------------------------------------------------------------------------------------------

TEST_CASE("chi2 falls as (N - 1) / samples, within a factor of two", "[ot][solver]") {
  int64_t N = kFewer < 1 ? 120 : 400;
  Targets targets = Targets::in_memory(image_like(N, 8));
  for (Source::Kind kind : {Source::Kind::gaussian, Source::Kind::cube}) {
    SolverOptions options;
    options.chi2 = 1e-6;
    options.max_samples = 240;
    options.measure_at = {0, 20, 40, 80, 160, 240};
    options.measure_samples = 60;
    std::vector<Quality> curve;
    std::vector<double> at;
    SolverResult result = Solver(targets, source_of(targets, kind), options).run([&](const SolverProgress& progress) {
      if (progress.measured) curve.push_back(*progress.measured), at.push_back(progress.samples_per_target);
      return true;
    });
    REQUIRE(curve.size() == 6);
    CHECK(curve[0].chi2 > 0.1);  // there was something to do: twice the bound after 20 samples a target
    for (size_t i = 1; i < curve.size(); ++i) {
      double bound = double(N - 1) / (at[i] * double(N)), error = (curve[i].high - curve[i].low) / 2;
      INFO(name_of(kind) << ", " << at[i] << " samples a target: chi2 " << curve[i].chi2 << " +- " << error);
      CHECK(curve[i].chi2 < 2 * bound + error);
    }
    CHECK(result.quality.empty == 0);
    // 10 samples a target measure w / nu to 1 / sqrt(10): the heights themselves are far better.
    Quality exact = measure(targets, result.heights, source_of(targets, kind), 12345, 200 * N);
    CHECK(exact.largest < 1.5);
    CHECK(*std::min_element(exact.counts.begin(), exact.counts.end()) > 100);
  }
}

TEST_CASE("many targets in few dimensions are solved from coarse to fine", "[ot][solver]") {
  // Steps of the size of the gaps alone leave chi2 near 0.5 here: mass has far to go from cell to cell.
  int64_t N = 300;
  for (int64_t D : {1, 2}) {
    Targets targets = Targets::in_memory(draw({N, D}, 11));
    SolverOptions options;
    options.chi2 = 1e-6;
    options.max_samples = 60;
    options.finish_empty = false;
    SolverResult result = Solver(targets, source_of(targets), options).run();
    INFO("D " << D);
    CHECK(measure(targets, result.heights, source_of(targets), 8, 200 * N).chi2 < 0.1);
  }
}

TEST_CASE("the solver stops when its certificate holds, and says what it took", "[ot][solver]") {
  int64_t N = 300, D = 64;
  Targets targets = Targets::in_memory(image_like(N, 8));
  SolverOptions options;
  options.chi2 = 0.1;
  SolverResult result = Solver(targets, source_of(targets), options).run();
  CHECK(result.converged);
  CHECK(!result.stopped);
  CHECK(result.quality.high <= 0.1);
  CHECK(double(result.samples) < 40 * double(N));
  CHECK(result.certificate_samples > 0);
  CHECK(apart(result.flops, 2.0 * double(result.samples + result.certificate_samples) * double(N * D), 0, 1e-12) == "");
  CHECK(apart(measure(targets, result.heights, source_of(targets), 99, 100 * N).chi2, 0.05, 0.05) == "");
  double sum = 0;
  for (double height : result.heights.to_vector()) sum += height;
  CHECK(std::abs(sum) < 1e-4);
  options.max_samples = 2;
  result = Solver(targets, source_of(targets), options).run();
  CHECK(!result.converged);
  CHECK(double(result.samples) >= 2 * double(N));
}

TEST_CASE("general weights get their masses", "[ot][solver]") {
  int64_t N = 120;
  std::vector<double> weights;
  double sum = 0;
  for (int64_t i = 0; i < N; ++i) weights.push_back(1 + double(i % 7)), sum += weights.back();
  for (double& weight : weights) weight /= sum;
  Targets targets = weighted(draw({N, 30}, 1), weights);
  SolverOptions options;
  options.chi2 = 0.02;
  SolverResult result = Solver(targets, source_of(targets), options).run();
  CHECK(result.converged);
  Quality quality = measure(targets, result.heights, source_of(targets), 4321, 300 * N);
  CHECK(quality.chi2 < 0.02);
  for (int64_t i = 0; i < N; ++i)
    CHECK(apart(double(quality.counts[size_t(i)]) / double(300 * N), weights[size_t(i)], 0, 0.75) == "");
}

TEST_CASE("cells that are empty at the end are raised", "[ot][solver]") {
  int64_t N = 60;
  Targets targets = Targets::in_memory(draw({N, 20}, 1));
  Tensor start = zeros({N});
  start.data<float>()[11] = start.data<float>()[42] =
      -6;  // no sample will get there, and steps this small will not help
  SolverOptions options;
  options.start_heights = start;
  options.gain = 1e-6;
  options.max_samples = 1;
  options.chi2 = 0.05;
  options.finish_empty = false;
  SolverResult without = Solver(targets, source_of(targets), options).run();
  options.finish_empty = true;
  SolverResult with = Solver(targets, source_of(targets), options).run();
  double rise = with.heights.to_vector()[11] - without.heights.to_vector()[11];
  CHECK(rise > 0.1);
  CHECK(with.samples > without.samples);
  CHECK(apart(with.heights.to_vector()[3] - with.heights.to_vector()[4],
              without.heights.to_vector()[3] - without.heights.to_vector()[4], 1e-5) == "");
}

TEST_CASE("solving in the span of the targets gives heights for the whole space", "[ot][rank]") {
  int64_t N = 40, D = 300;
  Targets targets = Targets::in_memory(draw({N, D}, 1));
  SolverOptions options;
  options.chi2 = 0.05;
  SolverResult reduced = Solver(targets, source_of(targets), options).run();
  options.rank_reduction = false;
  SolverResult whole = Solver(targets, source_of(targets), options).run();
  CHECK(reduced.converged);
  CHECK(reduced.flops < 0.5 * whole.flops);
  CHECK(measure(targets, reduced.heights, source_of(targets), 5, 200 * N).chi2 < 0.06);
}

TEST_CASE("the published recipe comes down too, more slowly", "[ot][solver]") {
  int64_t N = 60;
  Targets targets = Targets::in_memory(image_like(N, 4));
  SolverOptions options;
  options.method = "paper";
  options.batch = 60;
  options.max_samples = 900;
  options.chi2 = 1e-6;
  options.measure_at = {0, 900};
  options.measure_samples = 100;
  std::vector<Quality> curve;
  SolverResult result = Solver(targets, source_of(targets), options).run([&](const SolverProgress& progress) {
    if (progress.measured) curve.push_back(*progress.measured);
    return true;
  });
  CHECK(result.samples == 900 * N);
  REQUIRE(curve.size() == 2);
  CHECK(curve[1].chi2 < 0.25 * curve[0].chi2);
}

// ---- The same bits -------------------------------------------------------------------------------------------------

TEST_CASE("heights have the same bits for any threads and from a file in chunks", "[ot][solver]") {
  ScratchFolder folder;
  int64_t N = 460, D = 12;
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < N * D; ++i) bytes.push_back(uint8_t(random_bits(Generator{3}, uint64_t(i))));
  std::ofstream(folder.path("rows"), std::ios::binary).write(reinterpret_cast<char*>(bytes.data()), N * D);
  SolverOptions options;
  options.chi2 = 1e-6;
  options.max_samples = 4;
  options.batch = 300;
  for (DType dtype : {DType::f32, DType::bf16}) {
    TargetOptions target_options;
    target_options.dtype = dtype;
    target_options.chunk_bytes = 1;
    Targets file = Targets::out_of_core({folder.path("rows"), 0, 0, N, D}, target_options);
    Tensor all = arange(N);
    Targets memory = Targets::in_memory(file.points(all), target_options);
    SolverResult expected;
    {
      Threads one(1);
      expected = Solver(memory, source_of(memory), options).run();
    }
    for (int threads : {2, 3, 7}) {
      Threads several(threads);
      CHECK(same_bits(Solver(memory, source_of(memory), options).run().heights, expected.heights));
    }
    SolverResult chunked = Solver(file, source_of(file), options).run();
    CHECK(same_bits(chunked.heights, expected.heights));
    CHECK(chunked.quality.counts == expected.quality.counts);
  }
}

TEST_CASE("a saved run goes on as if it had not stopped, for every method", "[ot][solver]") {
  ScratchFolder folder;
  int64_t N = 80;
  Targets targets = Targets::in_memory(image_like(N, 4));
  for (const char* method : {"sgd", "paper"}) {
    SolverOptions options;
    options.method = method;
    options.chi2 = 0.04;
    options.max_samples = 60;
    options.log_passes = 1;
    if (options.method == "paper") options.batch = 100;
    Source source = source_of(targets);
    SolverResult whole = Solver(targets, source, options).run();
    std::string path = folder.path(method);
    for (int64_t stop : {1, 3, 5}) {
      Solver first(targets, source, options);
      SolverResult part = first.run([&](const SolverProgress& progress) { return progress.step < stop; });
      CHECK(part.stopped);
      first.save(path);
      Solver second(targets, source, options);
      second.load(path);
      CHECK(same_bits(second.heights(), first.heights()));
      SolverResult rest = second.run();
      INFO(method << ", stopped after step " << stop);
      CHECK(same_bits(rest.heights, whole.heights));
      CHECK(rest.samples == whole.samples);
      CHECK(rest.certificate_samples == whole.certificate_samples);
      CHECK(rest.quality.counts == whole.quality.counts);
      CHECK(rest.converged == whole.converged);
      second.save(path);  // one that has ended stays so
      Solver third(targets, source, options);
      third.load(path);
      CHECK(same_bits(third.run().heights, whole.heights));
    }
  }
}

TEST_CASE("a state of another problem, or no state, is refused", "[ot][solver]") {
  ScratchFolder folder;
  Targets targets = Targets::in_memory(draw({20, 5}, 1)), other = Targets::in_memory(draw({20, 5}, 2));
  SolverOptions options;
  Solver solver(targets, source_of(targets), options);
  solver.save(folder.path("state"));
  auto refused = [&](const Targets& of, const Source& source, const SolverOptions& with) {
    return caught([&] { Solver(of, source, with).load(folder.path("state")); });
  };
  CHECK(refused(other, source_of(other), options).kind == Error::Kind::checkpoint);
  CHECK(refused(other, source_of(other), options).says("made with targets"));
  CHECK(refused(targets, source_of(targets, Source::Kind::cube), options)
            .says("made with source 'gaussian', this solver has cube"));
  SolverOptions changed = options;
  changed.seed = 8;
  CHECK(refused(targets, source_of(targets), changed).says("seed"));
  changed = options;
  changed.chi2 = 0.01, changed.max_samples = 9;
  CHECK(refused(targets, source_of(targets), changed).message == "");
  std::ofstream(folder.path("state")) << "nothing";
  CHECK(refused(targets, source_of(targets), options).kind == Error::Kind::checkpoint);
}

// ---- Classes, edges, errors ----------------------------------------------------------------------------------------

TEST_CASE("classes are solved each by itself", "[ot][solver]") {
  int64_t N = 90;
  Tensor labels = empty({N}, DType::i64), y = draw({N, 12}, 1);
  for (int64_t i = 0; i < N; ++i) labels.data<int64_t>()[i] = i % 10 == 0 ? 3 : i % 2;
  labels.data<int64_t>()[5] = 5;  // a class of one; classes 2 and 4 have none
  Targets targets = Targets::in_memory(y);
  SolverOptions options;
  options.chi2 = 0.06;
  std::vector<int64_t> seen;
  ClassResult result =
      solve_classes(targets, labels, source_of(targets), options, [&](int64_t label, const SolverProgress&) {
        seen.push_back(label);
        return true;
      });
  REQUIRE(result.classes.size() == 6);
  CHECK(!result.classes[2].heights.defined());
  CHECK(result.classes[5].converged);
  CHECK(std::count(seen.begin(), seen.end(), 3) > 0);
  // Samples that want a class are spread evenly over it.
  int64_t S = 9000;
  Tensor x = source_of(targets).samples(777, 0, S), wanted = full({S}, 3, DType::i64);
  Tensor index = assign_in_class(targets, result.heights, labels, x, wanted);
  std::vector<int64_t> counts(size_t(N), 0);
  for (int64_t s = 0; s < S; ++s) ++counts[size_t(index.data<int64_t>()[s])];
  std::vector<int64_t> own;
  for (int64_t i = 0; i < N; ++i) {
    if (labels.data<int64_t>()[i] == 3) own.push_back(counts[size_t(i)]);
    else CHECK(counts[size_t(i)] == 0);
  }
  CHECK(quality_of(own, std::vector<double>(own.size(), 1.0 / double(own.size()))).chi2 < 0.08);
}

TEST_CASE("a single target needs no step", "[ot][solver]") {
  ScratchFolder folder;
  Targets one = Targets::in_memory(f32({1, 2, 3}, {1, 3}));
  Solver solver(one, source_of(one));
  SolverResult result = solver.run();
  CHECK(result.converged);
  CHECK(result.samples == 0);
  CHECK_SAME(result.heights, zeros({1}));
  solver.save(folder.path("state"));
  Solver again(one, source_of(one));
  again.load(folder.path("state"));
  CHECK(again.run().converged);
}

TEST_CASE("options without sense are refused, naming the option", "[ot][solver]") {
  Targets targets = Targets::in_memory(draw({10, 4}, 1));
  auto refused = [&](auto&& change) {
    SolverOptions options;
    change(options);
    return caught([&] { Solver(targets, source_of(targets), options); });
  };
  CHECK(refused([](SolverOptions& o) { o.method = "newton"; }).kind == Error::Kind::usage);
  CHECK(refused([](SolverOptions& o) { o.method = "newton"; }).says("method must be sgd or paper, got newton"));
  CHECK(refused([](SolverOptions& o) { o.chi2 = 0; }).says("chi2"));
  CHECK(refused([](SolverOptions& o) { o.chi2 = std::nan(""); }).says("chi2"));
  CHECK(refused([](SolverOptions& o) { o.max_samples = -1; }).says("max_samples"));
  CHECK(refused([](SolverOptions& o) { o.batch = -5; }).says("batch"));
  CHECK(refused([](SolverOptions& o) { o.epsilon = 0; }).says("epsilon"));
  CHECK(refused([](SolverOptions& o) { o.gain = 0; }).says("gain"));
  CHECK(refused([](SolverOptions& o) { o.average = "last"; }).says("average"));
  CHECK(refused([](SolverOptions& o) { o.start = "random"; }).says("no start 'random'"));
  CHECK(refused([](SolverOptions& o) { o.start_heights = zeros({9}); }).says("there are 10 targets"));
  CHECK(refused([](SolverOptions& o) { o.measure_at = {-1}; }).says("measure_at"));
  Source narrow = source_of(targets);
  narrow.width = 3;
  CHECK(caught([&] { Solver(targets, narrow); }).says("the source has 3 dimensions, the targets have 4"));
  CHECK(caught([&] { measure(targets, zeros({10}), narrow, 0, 10); }).kind == Error::Kind::argument);
  CHECK(caught([&] { measure(targets, zeros({10}), source_of(targets), 0, 1); }).says("2 samples or more"));
}
