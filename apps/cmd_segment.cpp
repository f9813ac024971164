// cmd_segment.cpp - `mote segment`: its subcommands, and `mote segment theory`, the tables that need no training.
#include "apps/cmd_segment.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/common.h"
#include "diffusion/resensemble/target.h"
#include "diffusion/resensemble/toy.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;
using namespace resensemble;

struct SamplerRow {
  const char* schedule;
  int64_t T;
  const char* sampler;   // "small", "large" or "ddim"
};
constexpr SamplerRow kRows[] = {{"paper", 1000, "small"}, {"paper", 1000, "large"},  {"paper", 1000, "ddim"},
                                {"scaled", 100, "small"}, {"paper", 100, "small"},   {"cosine", 1000, "small"}};

ToyResult toy_of(const SamplerRow& row, double v) {
  Schedule schedule = schedule_named(row.schedule, row.T);
  if (std::string(row.sampler) == "ddim") return toy_ddim(schedule, v, row.T);
  return toy_ancestral(schedule, v, std::string(row.sampler) == "large");
}

const char* words_of(const char* sampler) {
  std::string name = sampler;
  return name == "small" ? "ancestral, beta tilde" : name == "large" ? "ancestral, beta" : "ddim, all steps";
}

void run_theory(const CommonOptions& common) {
  constexpr double kResidual = 1.44, kPlain = 0.36, kV = 0.36, kD = 0.09;
  Json table = Json::array(), gains = Json::array(), ideal = Json::array(), few = Json::array();
  std::string text = "A scalar problem with an exact network: I ~ N(0, 1), x0 = 0.8 I + 0.6 n, f = 0.5 I\n"
                     "k: gain of the sampled mean (1 is right); target 2 x0 - f has variance 1.44, plain x0 0.36\n\n";
  char line[256];
  auto add = [&](const auto&... parts) {
    std::snprintf(line, sizeof line, parts...);
    text += line;
  };
  add("%-36s %14s %14s %12s %12s %12s %14s %14s\n", "schedule, sampler", "k", "variance", "MSE K=1", "K=4", "K=16",
      "plain k", "plain variance");
  ToyResult exact{1, kResidual};
  add("%-36s %14.12g %14.12g %12.10g %12.10g %12.10g %14.12g %14.12g\n", "ideal", 1.0, kResidual, toy_mse(exact, 1),
      toy_mse(exact, 4), toy_mse(exact, 16), 1.0, kPlain);
  for (const SamplerRow& row : kRows) {
    ToyResult r = toy_of(row, kResidual), p = toy_of(row, kPlain);
    std::string name = concat_text("T=", row.T, " ", row.schedule, ", ", words_of(row.sampler));
    add("%-36s %14.12f %14.12f %12.10f %12.10f %12.10f %14.12f %14.12f\n", name.c_str(), r.gain, r.variance,
        toy_mse(r, 1), toy_mse(r, 4), toy_mse(r, 16), p.gain, p.variance);
    table.push_back({{"schedule", row.schedule}, {"T", row.T}, {"sampler", row.sampler}, {"gain", r.gain},
                     {"variance", r.variance}, {"mse", {toy_mse(r, 1), toy_mse(r, 4), toy_mse(r, 16)}},
                     {"plain_gain", p.gain}, {"plain_variance", p.variance}});
  }
  Schedule paper = schedule_named("paper", 1000);
  add("\nleast loss, T=1000 paper: %.12f for the residual target, %.12f for plain\n", toy_loss(paper, kResidual),
      toy_loss(paper, kPlain));
  text += "\nddim with few steps, T=1000 paper: share of the variance, gain\n";
  for (int64_t steps : {10, 20, 50}) {
    ToyResult r = toy_ddim(paper, kResidual, steps);
    add("%4lld steps  %.3f  %.3f\n", static_cast<long long>(steps), r.variance / kResidual, r.gain);
    few.push_back({{"steps", steps}, {"variance_share", r.variance / kResidual}, {"gain", r.gain}});
  }
  text += "\nideal errors with a perfect sampler\n   K       E2E     plain  residual     naive         w  weighted\n";
  for (int64_t K : {1, 4, 16}) {
    Ideal e = ideal_errors(kV, kD, K);
    add("%4lld %9.6g %9.6g %9.6g %9.6g %9.6g %9.6g\n", static_cast<long long>(K), e.e2e, e.plain, e.residual, e.naive,
        e.best_weight, e.weighted);
    ideal.push_back({{"K", K}, {"e2e", e.e2e}, {"plain", e.plain}, {"residual", e.residual}, {"naive", e.naive},
                     {"weight", e.best_weight}, {"weighted", e.weighted}});
  }
  text += "\nhow far an error of the network moves the estimate, T=1000 paper, target (1 + lambda) x0 - lambda f\n"
          "lambda  same at every step  independent (rms)\n";
  for (double lambda : {0.0, 0.5, 1.0, 2.0, 4.0, 8.0}) {
    ErrorGain gain = toy_error_gain(paper, lambda);
    add("%6g  %18.4f  %17.4f\n", lambda, gain.constant, gain.white);
    gains.push_back({{"lambda", lambda}, {"constant", gain.constant}, {"white", gain.white}});
  }
  ToyResult misprint = toy_misprint(paper, kResidual);
  add("\ntrained with alpha in place of abar (misprint of eq. 17): gain %.4g, variance %.4g\n", misprint.gain,
      misprint.variance);
  if (!common.json) {
    std::cout << text;
    return;
  }
  Json out = {{"samplers", table}, {"few_steps", few}, {"ideal", ideal}, {"error_gain", gains},
              {"least_loss", {{"residual", toy_loss(paper, kResidual)}, {"plain", toy_loss(paper, kPlain)}}},
              {"misprint", {{"gain", misprint.gain}, {"variance", misprint.variance}}}};
  std::cout << out.dump(2) << "\n";
}

}  // namespace

void add_segment_command(CLI::App& app) {
  CLI::App* segment = app.add_subcommand("segment", "Segment images with ResEnsemble-DDPM");
  segment->require_subcommand(1);
  segment->footer("Example:\n"
                  "  mote segment train-e2e --data synthetic:fashionseg28 --limit 2000 --epochs 10 --out runs/e2e\n"
                  "  mote segment train-ddpm --e2e runs/e2e --limit 2000 --schedule scaled --T 100 --out runs/res\n"
                  "  mote segment eval --e2e runs/e2e --run res=runs/res --samples 1,9 --out runs/eval");
  add_segment_train_commands(*segment);
  add_segment_predict(*segment);
  add_segment_eval(*segment);
  auto common = std::make_shared<CommonOptions>();
  add_command(*segment, "theory",
              "Tables of a problem with an exact answer: what samplers and errors do to the estimate",
              "mote segment theory", *common, [common] { run_theory(*common); });
}

}  // namespace mote::apps
