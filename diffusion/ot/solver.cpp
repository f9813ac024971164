#include "diffusion/ot/solver.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "diffusion/ot/keys.h"
#include "diffusion/ot/method.h"
#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/safetensors.h"

namespace mote::ot {
namespace {

using Clock = std::chrono::steady_clock;

void require_options(const SolverOptions& options) {
  auto needs = [](bool holds, const char* name, const char* rule, const auto& got) {
    if (!holds) fail(Error::Kind::usage, "ot::Solver: ", name, " must be ", rule, ", got ", got);
  };
  needs(options.method == "sgd" || options.method == "paper", "method", "sgd or paper", options.method);
  needs(std::isfinite(options.chi2) && options.chi2 > 0, "chi2", "positive", options.chi2);
  needs(std::isfinite(options.max_samples) && options.max_samples > 0, "max_samples", "positive", options.max_samples);
  needs(options.batch >= 0, "batch", "0 (chosen) or more", options.batch);
  needs(std::isfinite(options.epsilon) && options.epsilon > 0, "epsilon", "positive", options.epsilon);
  needs(std::isfinite(options.gain) && options.gain > 0, "gain", "positive", options.gain);
  needs(options.average == "1" || options.average == "t" || options.average == "t2" || options.average == "ln2",
        "average", "1, t, t2 or ln2", options.average);
  needs(options.log_passes >= 0, "log_passes", "0 or more", options.log_passes);
  needs(std::isfinite(options.paper_lr) && options.paper_lr > 0, "paper_lr", "positive", options.paper_lr);
  needs(std::isfinite(options.measure_samples) && options.measure_samples > 0, "measure_samples", "positive",
        options.measure_samples);
  for (double at : options.measure_at) needs(std::isfinite(at) && at >= 0, "measure_at", "0 or more", at);
}

/// Whether solving in the span of the targets takes less time: its operands are f32, those of bf16 go twice as fast.
bool worth_reducing(const Targets& targets, const Source& source, const SolverOptions& options) {
  int64_t factor = targets.dtype() == DType::bf16 ? 2 : 1;
  return options.rank_reduction && source.kind == Source::Kind::gaussian && targets.chunks().size() == 1 &&
         factor * (targets.count() - 1) < targets.width();
}

Problem make_problem(const Targets& targets, const Source& source, const SolverOptions& options, double& flops) {
  require_options(options);
  check(source.width == targets.width(), "ot::Solver: the source has ", source.width, " dimensions, the targets have ",
        targets.width());
  Problem problem{targets, source, options};
  problem.source.seed = options.seed;
  std::sort(problem.options.measure_at.begin(), problem.options.measure_at.end());
  if (targets.count() > 1 && worth_reducing(targets, source, options)) {
    double N = double(targets.count());
    flops += 2 * N * N * double(targets.width()) + N * N * N / 3;
    if (std::optional<Targets> reduced = reduce_rank(targets)) problem.targets = *reduced;
    problem.source.width = problem.targets.width();
  }
  return problem;
}

}  // namespace

// ---- State ---------------------------------------------------------------------------------------------------------

struct Solver::State {
  std::string given_hash;  // of the targets before rank reduction
  double flops = 0, seconds = 0;
  Problem problem;
  std::unique_ptr<Method> method;  // none for a single target
  int64_t samples = 0, certificate_samples = 0;
  int64_t certificates = 0, finishes = 0, marks = 0;  // made so far; of the curve's points
  double next_certificate = 0;                        // samples at which to measure
  bool done = false;
  std::optional<Quality> quality;  // of the heights as they are

  State(const Targets& targets, const Source& source, const SolverOptions& options)
      : given_hash(targets.hash()), problem(make_problem(targets, source, options, flops)) {
    if (problem.N() == 1) return;
    method = options.method == "paper" ? make_paper(problem) : make_sgd(problem);
    // No method gets below (N - 1) / chi2 samples; ours needs some more.
    next_certificate = 1.3 * double(problem.N() - 1) / options.chi2;
  }

  double of_targets(int64_t count) const { return double(count) / double(problem.N()); }
  double limit() const { return problem.options.max_samples * double(problem.N()); }
  double flops_of(double count) const { return 2 * count * double(problem.N()) * double(problem.targets.width()); }
  Tensor heights() const { return method ? as_heights(method->heights()) : zeros({1}); }

  Quality measured(Stream stream, int64_t number, int64_t count, int64_t first = 0) {
    flops += flops_of(double(count));
    certificate_samples += count;
    return measure(problem.targets, heights(), problem.source, iteration_of(stream, number), count, first);
  }

  /// Samples that measure a chi2 near the wanted one to a tenth of it, within reason.
  int64_t enough_samples() const {
    double N = double(problem.N());
    return int64_t(std::clamp(20 * std::sqrt(2 * N) / problem.options.chi2, 4 * N, 40 * N + 4096));
  }

  /// Doubles a fresh sample until the interval lies on one side of the wanted chi2, or there are enough.
  Quality certificate() {
    double wanted = problem.options.chi2;
    int64_t most = enough_samples(), count = std::min(most, 2 * problem.N() + 64);
    Quality quality = measured(Stream::certificates, certificates, count);
    while (quality.low <= wanted && wanted < quality.high && count < most) {
      int64_t more = std::min(count, most - count);
      Quality next = measured(Stream::certificates, certificates, more, count);
      for (size_t i = 0; i < next.counts.size(); ++i) next.counts[i] += quality.counts[i];
      double potential = (next.potential * double(more) + quality.potential * double(count)) / double(count + more);
      count += more;
      quality = quality_of(next.counts, problem.targets.weights());
      quality.potential = potential;
    }
    ++certificates;
    return quality;
  }

  /// Raises cells that 10 N samples found empty, a few times; what is measured last is the certificate of the result.
  void finish() {
    int64_t count = std::max(10 * problem.N(), enough_samples());
    for (int pass = 0;; ++pass) {
      quality = measured(Stream::finish, finishes++, count);
      if (quality->empty == 0 || pass == 3) return;
      std::vector<double> heights = method->heights();
      Tensor x = problem.source.samples(iteration_of(Stream::finish, finishes), 0, 1024, problem.targets.dtype());
      log_pass(heights, problem, quality->counts, x, true);
      method->restart(heights);
      samples += quality->samples;  // they have shaped the heights
      certificate_samples -= quality->samples;
    }
  }
};

Solver::Solver(const Targets& targets, const Source& source, const SolverOptions& options)
    : state_(std::make_unique<State>(targets, source, options)) {}
Solver::~Solver() = default;

Tensor Solver::heights() const { return state_->heights(); }

// ---- The loop ------------------------------------------------------------------------------------------------------

SolverResult Solver::run(const SolverObserver& observer) {
  State& s = *state_;
  const SolverOptions& options = s.problem.options;
  Clock::time_point began = Clock::now();
  double seconds_before = s.seconds;
  int64_t samples_before = s.samples;
  bool stopped = false;
  auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - began).count(); };

  while (!s.done && s.method) {
    SolverProgress progress;
    if (s.marks < int64_t(options.measure_at.size()) &&
        s.of_targets(s.samples) >= options.measure_at[size_t(s.marks)]) {
      int64_t count = std::max<int64_t>(2, int64_t(options.measure_samples * double(s.problem.N())));
      progress.measured = s.measured(Stream::curve, s.marks++, count);
    } else if (double(s.samples) >= std::min(s.next_certificate, s.limit()) || s.method->has_ended()) {
      s.quality = progress.certificate = s.certificate();
      bool last = double(s.samples) >= s.limit() || s.method->has_ended();
      if (options.finish_empty && (last || s.quality->high <= options.chi2)) s.finish();
      s.done = last || s.quality->high <= options.chi2;
      // chi2 falls as 1 / samples.
      double factor = std::clamp(1.05 * s.quality->chi2 / options.chi2, 1.1, 4.0);
      s.next_certificate = factor * double(s.samples);
    } else {
      int64_t count = s.method->step();
      s.samples += count;
      s.flops += s.flops_of(double(count));
    }
    s.seconds = seconds_before + elapsed();
    progress.step = s.method->steps();
    progress.samples = s.samples;
    progress.samples_per_target = s.of_targets(s.samples);
    progress.samples_per_second = double(s.samples - samples_before) / std::max(elapsed(), 1e-9);
    double goal = std::min(s.limit(), std::max(s.next_certificate, double(s.samples)));
    progress.seconds_left = s.done ? 0 : (goal - double(s.samples)) / std::max(progress.samples_per_second, 1e-9);
    progress.epsilon = s.method->epsilon();
    if (observer && !observer(progress) && !s.done) {
      stopped = true;
      break;
    }
  }

  SolverResult result;
  result.heights = s.heights();
  if (s.method) require_heights("ot::Solver", s.problem.targets, result.heights);
  if (!s.method) s.quality = Quality{0, 0, 0, 0, 0, 0, 1, {0}};
  if (s.quality) result.quality = *s.quality;
  result.converged = s.done && s.quality->high <= options.chi2;
  if (!s.method) result.converged = true;
  result.stopped = stopped;
  result.samples = s.samples;
  result.certificate_samples = s.certificate_samples;
  result.seconds = s.seconds = seconds_before + elapsed();
  result.flops = s.flops;
  return result;
}

// ---- Saving --------------------------------------------------------------------------------------------------------

namespace {

std::string exact(double value) {
  std::ostringstream out;
  out.precision(17);
  out << value;
  return out.str();
}

/// What must be the same for a run to go on: everything but budgets and the points of the curve.
std::map<std::string, std::string> identity(const std::string& hash, const Problem& problem) {
  const SolverOptions& o = problem.options;
  const Tensor& start = o.start_heights;
  return {{"targets", hash},
          {"source", name_of(problem.source.kind) + (problem.source.antithetic ? ", antithetic" : "")},
          {"method", o.method},
          {"batch", std::to_string(o.batch)},
          {"start", start.defined() ? io::hash_hex(start.raw(), size_t(start.nbytes())) : o.start},
          {"epsilon", exact(o.epsilon)},
          {"gain", exact(o.gain)},
          {"average", o.average},
          {"log_passes", std::to_string(o.log_passes)},
          {"paper_lr", exact(o.paper_lr)},
          {"finish_empty", std::to_string(o.finish_empty)},
          {"rank_reduction", std::to_string(o.rank_reduction)},
          {"seed", std::to_string(o.seed)}};
}

}  // namespace

void Solver::save(const std::string& path) const {
  const State& s = *state_;
  std::map<std::string, Tensor> tensors;
  std::map<std::string, double> numbers;
  if (s.method) s.method->store(tensors, numbers);
  else tensors["h"] = zeros({1}, DType::f64);
  std::map<std::string, std::string> metadata = {{"format", "mote.ot.solver 1"},
                                                 {"solver.samples", std::to_string(s.samples)},
                                                 {"solver.certificate_samples", std::to_string(s.certificate_samples)},
                                                 {"solver.certificates", std::to_string(s.certificates)},
                                                 {"solver.finishes", std::to_string(s.finishes)},
                                                 {"solver.marks", std::to_string(s.marks)},
                                                 {"solver.next_certificate", exact(s.next_certificate)},
                                                 {"solver.done", std::to_string(s.done)},
                                                 {"solver.flops", exact(s.flops)},
                                                 {"solver.seconds", exact(s.seconds)}};
  for (const auto& [key, value] : numbers) metadata["method." + key] = exact(value);
  for (const auto& [key, value] : identity(s.given_hash, s.problem)) metadata["of." + key] = value;
  if (s.quality && s.method) {
    metadata["quality.potential"] = exact(s.quality->potential);
    Tensor counts = empty({s.problem.N()}, DType::i64);
    std::copy(s.quality->counts.begin(), s.quality->counts.end(), counts.data<int64_t>());
    tensors["quality.counts"] = counts;
  }
  io::save_safetensors(path, {tensors.begin(), tensors.end()}, metadata);
}

void Solver::load(const std::string& path) {
  State& s = *state_;
  io::Safetensors file = io::load_safetensors(path);
  auto broken = [&](const auto&... parts) { fail(Error::Kind::checkpoint, path, ": ", parts...); };
  auto text = [&](const std::string& key) {
    if (!file.metadata.count(key)) broken("is no state of an OT solver: it lacks '", key, "'");
    return file.metadata.at(key);
  };
  auto number = [&](const std::string& key) {
    std::string value = text(key);
    char* end = nullptr;
    double read = std::strtod(value.c_str(), &end);
    if (value.empty() || *end) broken("'", key, "' is ", io::printable(value), ", a number is needed");
    return read;
  };
  if (text("format") != "mote.ot.solver 1")
    broken("is of the format ", io::printable(text("format")), ", mote.ot.solver 1 is needed");
  for (const auto& [key, value] : identity(s.given_hash, s.problem))
    if (text("of." + key) != value)
      broken("was made with ", key, " ", io::printable(text("of." + key)), ", this solver has ", value);
  for (const auto& [name, tensor] : file.tensors) {
    DType dtype = name == "quality.counts" ? DType::i64 : DType::f64;
    if (tensor.dtype() != dtype || !(tensor.shape() == Shape{s.problem.N()}))
      broken("'", name, "' is ", describe(tensor), ", ", dtype, "[", s.problem.N(), "] is needed");
  }
  if (s.method) {
    std::map<std::string, Tensor> tensors;
    std::map<std::string, double> numbers;
    s.method->store(tensors, numbers);  // for the names
    for (const auto& [key, value] : numbers) numbers[key] = number("method." + key);
    for (const auto& [key, value] : tensors)
      if (!file.tensors.count(key)) broken("lacks the tensor '", key, "'");
    s.method->restore(file.tensors, numbers);
  }
  s.samples = int64_t(number("solver.samples"));
  s.certificate_samples = int64_t(number("solver.certificate_samples"));
  s.certificates = int64_t(number("solver.certificates"));
  s.finishes = int64_t(number("solver.finishes"));
  s.marks = int64_t(number("solver.marks"));
  s.next_certificate = number("solver.next_certificate");
  s.flops = number("solver.flops"), s.seconds = number("solver.seconds");
  s.quality.reset();
  if (file.tensors.count("quality.counts")) {
    const Tensor& counts = file.tensors.at("quality.counts");
    s.quality =
        quality_of({counts.data<int64_t>(), counts.data<int64_t>() + counts.numel()}, s.problem.targets.weights());
    s.quality->potential = number("quality.potential");
  }
  // What was enough, or too much, for other budgets goes on.
  s.done = number("solver.done") != 0 && s.quality &&
           (s.quality->high <= s.problem.options.chi2 || double(s.samples) >= s.limit() ||
            (s.method && s.method->has_ended()));
}

// ---- Classes -------------------------------------------------------------------------------------------------------

ClassResult solve_classes(const Targets& targets, const Tensor& labels, const Source& source,
                          const SolverOptions& options,
                          const std::function<bool(int64_t label, const SolverProgress&)>& observer) {
  check(labels.defined() && labels.dtype() == DType::i64 && labels.shape() == Shape{targets.count()},
        "ot::solve_classes: needs labels i64 [", targets.count(), "], got ", describe(labels));
  check(!options.start_heights.defined(), "ot::solve_classes: start_heights are for a single solver");
  std::vector<std::vector<int64_t>> members;
  for (int64_t i = 0; i < targets.count(); ++i) {
    int64_t label = labels.data<int64_t>()[i];
    check(label >= 0, "ot::solve_classes: label ", i, " is ", label, "; 0 or more is needed");
    if (label >= int64_t(members.size())) members.resize(size_t(label + 1));
    members[size_t(label)].push_back(i);
  }
  ClassResult result{zeros({targets.count()}), std::vector<SolverResult>(members.size())};
  for (size_t label = 0; label < members.size(); ++label) {
    if (members[label].empty()) continue;
    Solver solver(targets.subset(members[label]), source, options);
    SolverObserver watch;
    if (observer) watch = [&](const SolverProgress& progress) { return observer(int64_t(label), progress); };
    SolverResult& one = result.classes[label] = solver.run(watch);
    for (size_t i = 0; i < members[label].size(); ++i)
      result.heights.data<float>()[members[label][i]] = one.heights.data<float>()[i];
    if (one.stopped) break;
  }
  return result;
}

}  // namespace mote::ot
