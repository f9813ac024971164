// Averaged stochastic gradient descent on E(h) with an entropy that decreases from step to step. [Genans 2025, alg. 1]
//   p_i(x) = softmax_i((<x, row_i> + h_i) / epsilon),   h_i -= gain tau_i (mean p_i - nu_i) / nu_i
//   epsilon = epsilon_0 tau / sqrt(1 + r),   gain = min(1/2, gain_0 B / N r^(-2/3)),   r samples a target so far
// and the result is an average of the h, by the number of the step. nu_i / tau_i is the diagonal of the Hessian
// (method.h): with it, and with time counted in samples a target, the constants hold for any N, D, weights and batch B.
// Relative to its diagonal a graph Laplacian has eigenvalues up to 2, hence the 1/2.
// Where tau is far below what it would be for independent directions, in few dimensions, coarse steps come first:
// epsilon falls from there to tau, each step is epsilon / 2 times the relative gradient, and nothing is averaged.
#include <algorithm>
#include <cmath>

#include "diffusion/ot/keys.h"
#include "diffusion/ot/method.h"
#include "diffusion/ot/normal.h"
#include "tensor/error.h"
#include "tensor/kernels.h"

namespace mote::ot {
namespace {

constexpr double kAnneal = 0.9;  // of the coarse scale, from one step to the next

class Sgd : public Method {
 public:
  explicit Sgd(const Problem& problem) : problem_(problem) {
    int64_t N = problem.N();
    batch_ = problem.options.batch;
    if (batch_ == 0)
      batch_ = N < 1024 ? std::max<int64_t>(N / 4, 32) : (N / 4 + 255) / 256 * 256;  // whole groups of score_softmax
    h_ = start_heights(problem, problem.targets.width() <= 64 ? "best" : "extreme");
    average_ = h_;
    spread_ = spread_of_targets(problem.targets);
  }

  int64_t step() override {
    if (passes_ < problem_.options.log_passes) return pass();
    ++t_;
    Tensor heights = as_heights(h_), first = samples(0, std::min<int64_t>(batch_, samples_at_a_time(problem_.targets)));
    Tensor some = first.rows(0, std::min<int64_t>(first.size(0), 1024));
    if (fine_ == 0) {
      gap_ = typical_gap(problem_, h_, some);
      coarse_ = t_ == 1 ? coarse_scale() : kAnneal * coarse_;
    }
    bool coarse = fine_ == 0 && coarse_ > 2 * gap_;
    if (!coarse) {
      ++fine_;
      // Cells change most in the first steps. Far from the solution gaps are wide, and an entropy as wide would lead
      // further away.
      if ((fine_ & (fine_ - 1)) == 0) gap_ = std::min(gap_, typical_gap(problem_, h_, some));
    }
    double share_of_targets = double(batch_) / double(problem_.N()), r = share_of_targets * double(fine_);
    epsilon_ = problem_.options.epsilon * (coarse ? coarse_ : gap_ / std::sqrt(1 + r));
    if (!(epsilon_ > 0))
      fail(Error::Kind::numeric, "ot::Solver: the two best scores of most samples are equal in step ", t_);
    Tensor share = zeros({problem_.N()}, DType::f64);
    for (int64_t done = 0; done < batch_;) {
      Tensor x = done == 0 ? first : samples(done, std::min(batch_ - done, samples_at_a_time(problem_.targets)));
      add_shares(share, heights, x);
      done += x.size(0);
    }
    double gain = coarse ? 0.5 * epsilon_
                         : gap_ * std::min(0.5, problem_.options.gain * share_of_targets * std::pow(r, -2.0 / 3));
    const double* sum = share.data<double>();
    for (size_t i = 0; i < h_.size(); ++i) {
      double weight = problem_.targets.weights()[i];
      h_[i] -= gain * spread_[i] * (sum[i] / (double(batch_) * weight) - 1);
    }
    centre(h_);
    if (coarse) average_ = h_;
    else average();
    return batch_;
  }

  std::vector<double> heights() const override { return average_; }
  void restart(const std::vector<double>& heights) override { h_ = average_ = heights; }
  double epsilon() const override { return epsilon_; }
  int64_t steps() const override { return t_ + passes_; }

  void store(std::map<std::string, Tensor>& tensors, std::map<std::string, double>& numbers) const override {
    tensors["h"] = as_tensor(h_);
    tensors["average"] = as_tensor(average_);
    numbers = {{"t", double(t_)},   {"fine", double(fine_)}, {"coarse", coarse_},  {"passes", double(passes_)},
               {"weight", weight_}, {"gap", gap_},           {"epsilon", epsilon_}};
  }
  void restore(const std::map<std::string, Tensor>& tensors, const std::map<std::string, double>& numbers) override {
    h_ = as_vector(tensors.at("h"));
    average_ = as_vector(tensors.at("average"));
    t_ = int64_t(numbers.at("t")), fine_ = int64_t(numbers.at("fine")), coarse_ = numbers.at("coarse");
    passes_ = int64_t(numbers.at("passes"));
    weight_ = numbers.at("weight"), gap_ = numbers.at("gap"), epsilon_ = numbers.at("epsilon");
  }

 private:
  Tensor samples(int64_t first, int64_t count) const {
    return problem_.source.samples(iteration_of(Stream::steps, t_), first, count, problem_.targets.dtype());
  }

  /// The gap there would be among N independent directions. In few dimensions neighbours are much closer than that, and
  /// steps as small as their gaps would take long to move mass from one side to the other.
  double coarse_scale() const {
    double squares = 0;
    for (size_t i = 0; i < h_.size(); ++i)
      squares += problem_.targets.weights()[i] * std::pow(problem_.targets.score_std()[i], 2);
    return std::sqrt(squares) / std::max(1.0, upper_quantile(1 / double(problem_.N())));
  }

  /// share[i] += sum over the samples of p_i.
  void add_shares(Tensor& share, const Tensor& heights, const Tensor& x) const {
    const Targets& targets = problem_.targets;
    Tensor largest = full({x.size(0)}, -std::numeric_limits<double>::infinity()), total = zeros({x.size(0)}), none;
    std::vector<Targets::Span> chunks = targets.chunks();
    if (chunks.size() > 1)
      for (auto [first, last] : chunks)
        kernel::score_softmax(largest, total, none, x, targets.rows(first, last), heights.rows(first, last), epsilon_,
                              SoftmaxPass::sums);
    for (auto [first, last] : chunks) {
      Tensor part = empty({last - first}, DType::f64), into = share.rows(first, last);
      kernel::score_softmax(largest, total, part, x, targets.rows(first, last), heights.rows(first, last), epsilon_,
                            chunks.size() > 1 ? SoftmaxPass::shares : SoftmaxPass::both);
      kernel::accumulate(into, part);
    }
  }

  /// The weight of step t against all before: "1", "t", "t2", "ln2".
  void average() {
    const std::string& kind = problem_.options.average;
    double t = double(fine_), log = std::log(t + 1);
    double weight = kind == "t" ? t : kind == "t2" ? t * t : kind == "ln2" ? log * log : 1;
    weight_ += weight;
    for (size_t i = 0; i < h_.size(); ++i) average_[i] += weight / weight_ * (h_[i] - average_[i]);
  }

  /// A log pass over 10 N samples.
  int64_t pass() {
    int64_t count = 10 * problem_.N();
    uint64_t iteration = iteration_of(Stream::passes, passes_);
    Tensor x = problem_.source.samples(iteration, 0, std::min<int64_t>(count, 1024), problem_.targets.dtype());
    Quality quality = measure(problem_.targets, as_heights(h_), problem_.source, iteration, count);
    log_pass(h_, problem_, quality.counts, x, false);
    average_ = h_;
    ++passes_;
    return count;
  }

  Problem problem_;
  int64_t batch_ = 0, t_ = 0, fine_ = 0, passes_ = 0;  // fine_: steps after the coarse ones
  std::vector<double> h_, average_, spread_;
  double weight_ = 0;  // the sum of the weights of the average
  double coarse_ = 0, gap_ = 0, epsilon_ = 0;
};

}  // namespace

std::unique_ptr<Method> make_sgd(const Problem& problem) { return std::make_unique<Sgd>(problem); }

}  // namespace mote::ot
