// The published recipe, to be measured against: gradients of about 10 samples a target, Adam without bias correction,
// the sample doubled up to three times when the gradient has not become smaller for 50 steps.   [Li 2023, released
// code]
#include <algorithm>
#include <cmath>

#include "diffusion/ot/keys.h"
#include "diffusion/ot/method.h"
#include "tensor/error.h"

namespace mote::ot {
namespace {

class Paper : public Method {
 public:
  explicit Paper(const Problem& problem)
      : problem_(problem),
        batch_(problem.options.batch > 0 ? problem.options.batch : 4000),
        lr_(problem.options.paper_lr) {
    batches_ = std::max<int64_t>(10 * problem.N() / batch_, 1);  // the recipe stops at none when N is small
    h_ = best_ = start_heights(problem, "zero");
    m_.assign(h_.size(), 0.0);
    v_.assign(h_.size(), 0.0);
  }

  int64_t step() override {
    int64_t samples = batches_ * batch_;
    Quality quality =
        measure(problem_.targets, as_heights(h_), problem_.source, iteration_of(Stream::steps, t_++), samples);
    double squares = 0;
    for (size_t i = 0; i < h_.size(); ++i) {
      double g = double(quality.counts[i]) / double(samples) - problem_.targets.weights()[i];
      m_[i] = 0.9 * m_[i] + 0.1 * g;
      v_[i] = 0.999 * v_[i] + 0.001 * g * g;
      h_[i] -= lr_ * m_[i] / (std::sqrt(v_[i]) + 1e-8);
      squares += g * g;
    }
    centre(h_);
    double norm = std::sqrt(squares);
    if (!has_best_ || norm < best_norm_) {
      best_ = h_;  // as published: the heights after the step whose gradient was small
      best_norm_ = norm, has_best_ = true, bad_ = 0;
    } else {
      ++bad_;
    }
    ended_ = norm < 8e-4 && quality.empty == 0;
    if (bad_ > 50 && doublings_ < 3) {
      batches_ *= 2, lr_ *= 0.8, ++doublings_;
      has_best_ = false, bad_ = 0;
    }
    return samples;
  }

  std::vector<double> heights() const override { return best_; }
  void restart(const std::vector<double>& heights) override { h_ = best_ = heights; }
  bool has_ended() const override { return ended_; }
  int64_t steps() const override { return t_; }

  void store(std::map<std::string, Tensor>& tensors, std::map<std::string, double>& numbers) const override {
    tensors = {{"h", as_tensor(h_)}, {"best", as_tensor(best_)}, {"m", as_tensor(m_)}, {"v", as_tensor(v_)}};
    numbers = {{"t", double(t_)},
               {"batches", double(batches_)},
               {"lr", lr_},
               {"best_norm", best_norm_},
               {"bad", double(bad_)},
               {"doublings", double(doublings_)},
               {"has_best", double(has_best_)},
               {"ended", double(ended_)}};
  }
  void restore(const std::map<std::string, Tensor>& tensors, const std::map<std::string, double>& numbers) override {
    h_ = as_vector(tensors.at("h")), best_ = as_vector(tensors.at("best"));
    m_ = as_vector(tensors.at("m")), v_ = as_vector(tensors.at("v"));
    t_ = int64_t(numbers.at("t")), batches_ = int64_t(numbers.at("batches")), lr_ = numbers.at("lr");
    best_norm_ = numbers.at("best_norm"), bad_ = int64_t(numbers.at("bad")),
    doublings_ = int64_t(numbers.at("doublings"));
    has_best_ = numbers.at("has_best") != 0, ended_ = numbers.at("ended") != 0;
  }

 private:
  Problem problem_;
  int64_t batch_, batches_ = 1, t_ = 0, bad_ = 0, doublings_ = 0;
  double lr_, best_norm_ = 0;
  bool has_best_ = false, ended_ = false;
  std::vector<double> h_, best_, m_, v_;
};

}  // namespace

std::unique_ptr<Method> make_paper(const Problem& problem) { return std::make_unique<Paper>(problem); }

}  // namespace mote::ot
