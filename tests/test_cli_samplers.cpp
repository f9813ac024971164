// test_cli_samplers.cpp - `mote sample` with every sampler: what a dry run says, what is refused, what is written.
#include <map>

#include "diffusion/samplers/sampler.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"
#include "tests/diffusion_support.h"
#include "tests/run_mote.h"

using namespace mote;
using namespace mote::test;
using Json = nlohmann::json;

namespace {

/// A run of one step, whose network is nearly random: enough to see what the program does with it.
const std::string& trained(const std::string& schedule = "linear") {
  static test::ScratchFolder folder;
  static std::map<std::string, std::string> runs;
  if (!runs.count(schedule)) {
    Result made = mote_in(
        folder, words("train --data synthetic:blobs --size 8 --limit 20 --unet custom --base 8 --mult 1,2 --blocks 1 "
                      "--attention 4 --batch 4 --steps 1 --sample-count 0 --threads 1 --quiet --seed 3 --schedule " +
                      schedule + " --out " + schedule));
    if (made.code != 0) FAIL("the run that other tests read could not be made: " + made.err);
    runs[schedule] = folder.path(schedule);
  }
  return runs[schedule];
}

Args sample(const std::string& more) { return words("sample --run " + trained() + " --threads 1 --quiet " + more); }

/// The sum of the terms that a stage of the JSON plan has, at values made up for each operand.
double told_sum(const Json& stage, int64_t newest) {
  auto value = [](const std::string& of, int64_t call) {
    return (of == "x0" ? 2.0 : of == "eps" ? 3.0 : 5.0) + 0.1 * double(call);
  };
  double sum = stage["keep"].get<double>() * 7 + stage["noise"].get<double>() * 11;
  sum += stage["from_x0"].get<double>() * value("x0", newest) + stage["from_eps"].get<double>() * value("eps", newest);
  if (stage.contains("history"))
    for (const Json& part : stage["history"])
      sum += part["factor"].get<double>() * value(part["of"], part["call"].get<int64_t>());
  return sum;
}

double planned_sum(const Stage& stage) {
  double sum = 0;
  for (const PlanTerm& term : stage.terms) {
    double call = 0.1 * double(term.call);
    switch (term.source) {
      case Source::state: sum += term.factor * 7; break;
      case Source::noise: sum += term.factor * 11; break;
      case Source::x0: sum += term.factor * (2 + call); break;
      case Source::eps: sum += term.factor * (3 + call); break;
      case Source::input: sum += term.factor * (5 + call); break;
    }
  }
  return sum;
}

TEST_CASE("a dry run tells times, coefficients and calls of every sampler exactly", "[cli]") {
  test::ScratchFolder folder;
  for (const std::string& name : sampler_names()) {
    if (name == "pf-rk45") continue;
    INFO(name);
    Result json = mote_in(folder, sample("--sampler " + name + " --steps 6 --dry-run --json"));
    Result text = mote_in(folder, sample("--sampler " + name + " --steps 6 --dry-run"));
    REQUIRE(json.code == 0);
    REQUIRE(text.code == 0);
    Json told = Json::parse(json.out);
    std::vector<StepPlan> plan = plan_sampler(Schedule::linear(), {.name = name, .steps = 6});
    CHECK(told["network_calls"] == network_calls(plan));
    CHECK(contains(text.out, concat_text(network_calls(plan), " network calls")));
    REQUIRE(told["plan"].size() == plan.size());
    int64_t newest = -1;
    for (size_t k = 0; k < plan.size(); ++k) {
      const Json& step = told["plan"][k];
      CHECK(step["t"].get<double>() == plan[k].from.t);
      CHECK(step["t_prev"].get<double>() == plan[k].to.t);
      CHECK(step["calls"].get<std::vector<double>>() == plan[k].calls);
      size_t before = step.contains("before") ? step["before"].size() : 0;
      REQUIRE(before + 1 == plan[k].stages.size());
      for (size_t stage = 0; stage <= before; ++stage) {
        if (plan[k].stages[stage].call) ++newest;
        double expected = planned_sum(plan[k].stages[stage]);
        double got = told_sum(stage < before ? step["before"][stage] : step, newest);
        CHECK(test::apart(got, expected, 1e-12, 1e-12) == "");
      }
    }
  }
}

TEST_CASE("a dry run of pf-rk45 says that its calls follow from the images", "[cli]") {
  test::ScratchFolder folder;
  Result text = mote_in(folder, sample("--sampler pf-rk45 --tolerance 1e-3 --dry-run"));
  CHECK(text.code == 0);
  CHECK(contains(text.out, "tolerance 0.001"));
  Json told = Json::parse(mote_in(folder, sample("--sampler pf-rk45 --dry-run --json")).out);
  CHECK(told["network_calls"].is_null());
  CHECK(told["plan"][0]["t_prev"].get<double>() < 1);
}

TEST_CASE("conventions and grids reach the plan from the command line", "[cli]") {
  test::ScratchFolder folder;
  auto first_and_last = [&](const std::string& flags) {
    Json plan = Json::parse(mote_in(folder, sample(flags + " --dry-run --json")).out)["plan"];
    return std::vector<double>{plan.front()["t"], plan.back()["t"], double(plan.size())};
  };
  CHECK(first_and_last("--sampler f-pndm --steps 30 --convention pndm-repo") == std::vector<double>{990, 0, 31});
  CHECK(first_and_last("--sampler plms --steps 10 --convention diffusers --offset 1") ==
        std::vector<double>{901, 1, 10});
  CHECK(first_and_last("--sampler unipc --steps 10 --grid linspace --end first") == std::vector<double>{999, 100, 10});
  CHECK(first_and_last("--sampler dpmpp-2m --steps 10 --grid lambda-uniform") == std::vector<double>{999, 0, 10});
}

TEST_CASE("clamping the predicted image: off, the image alone, or eps with it; images are within [-1, 1]", "[cli]") {
  ScratchFolder folder;
  auto mode = [&](const std::string& flags) {
    return std::string(done(mote_in(folder, sample("--dry-run --json --steps 3 " + flags))).json()["clip"]);
  };
  CHECK(mode("--sampler ddim") == "both");
  CHECK(mode("--sampler ddim --clip x0") == "x0");
  CHECK(mode("--sampler dpmpp-2m") == "x0");
  CHECK(mode("--sampler dpmpp-2m --no-clip") == "off");
  CHECK_EXIT(mote_in(folder, sample("--dry-run --clip x0 --no-clip")), 2, "excludes");
  CHECK_EXIT(mote_in(folder, sample("--dry-run --clip eps")), 2, "--clip");
  // The nearly random network predicts images far outside, so that all three differ.
  std::vector<Tensor> drawn;
  for (std::string flags : {"", "--clip both", "--clip x0", "--clip off"}) {
    done(mote_in(folder, sample("--steps 3 --count 4 --npy a.npy " + flags)));
    drawn.push_back(io::load_npy(folder.path("a.npy")));
    for (double value : drawn.back().to_vector()) REQUIRE(std::abs(value) <= 1);
  }
  CHECK_SAME(drawn[0], drawn[1]);
  for (size_t i = 1; i < 4; ++i)
    for (size_t j = i + 1; j < 4; ++j) CHECK(difference(drawn[i], drawn[j], 1e-4, 1e-4) != "");
}

TEST_CASE("what a sampler does not take is a usage error that says what it needs", "[cli]") {
  test::ScratchFolder folder;
  const std::pair<const char*, const char*> refused[] = {
      {"--sampler f-pndm --steps 3", "needs 4 to T = 1000"},
      {"--sampler f-pndm --steps 1001", "needs 4 to T = 1000"},
      {"--sampler unipc --steps 0", "--steps: must be 1"},
      {"--sampler f-pndm --convention theirs", "ours, pndm-repo, diffusers"},
      {"--sampler plms --eta 0.5", "only ddim"},
      {"--sampler unipc --order 4", "needs 1 to 3"},
      {"--sampler deis --solver bh1", "only unipc"},
      {"--sampler heun --tolerance 0.1", "only pf-rk45"},
      {"--sampler pf-rk45 --steps 5", "--tolerance"},
      {"--sampler dpmpp-2m --lower-order-end maybe", "on and off"},
      {"--sampler s-pndm --lower-order-end off", "dpmpp-2m"},
      {"--sampler ddim --end middle", "clean, first"},
      {"--sampler f-pndm --convention pndm-repo --steps 1000", "such as 500"},
  };
  for (auto [flags, words] : refused) {
    Result result = mote_in(folder, sample(std::string(flags) + " --out a.png"));
    INFO(flags << ": " << result.err);
    CHECK(result.code == 2);
    CHECK(contains(result.err, words));
  }
  Result cosine = mote_in(folder, words("sample --run " + trained("cosine") + " --sampler fon --out a.png"));
  CHECK(cosine.code == 2);
  CHECK(contains(cosine.err, "linear schedule"));
}

TEST_CASE("every sampler draws images and a strip of states above predictions", "[cli]") {
  test::ScratchFolder folder;
  for (const std::string& name : sampler_names()) {
    INFO(name);
    bool is_adaptive = name == "pf-rk45";
    Result result = mote_in(folder, sample("--sampler " + name + (is_adaptive ? " --tolerance 0.1" : " --steps 4") +
                                           " --count 3 --batch 2 --out a.png --trajectory way.png --json"));
    INFO(result.err);
    REQUIRE(result.code == 0);
    Json told = Json::parse(result.out);
    CHECK(told["sampler"] == name);
    int64_t steps = is_adaptive ? 1 : 4;
    CHECK(told["timesteps"].size() == size_t(steps));
    if (is_adaptive) CHECK(told["network_calls"].get<double>() >= 8);
    else CHECK(told["network_calls"] == network_calls(plan_sampler(Schedule::linear(), {.name = name, .steps = 4})));
    Tensor strip = io::load_image(folder.path("way.png"));   // cells of 8 pixels, gaps of 2
    CHECK(strip.size(0) == 6 * 8 + 5 * 2);
    CHECK(strip.size(1) == (steps + 1) * 8 + steps * 2);
    std::vector<double> pixels = strip.to_vector();
    auto cell = [&](int64_t row, int64_t column) {
      std::vector<double> values;
      for (int64_t y = 0; y < 8; ++y)
        for (int64_t i = 0; i < 8 * strip.size(2); ++i)
          values.push_back(pixels[((row * 10 + y) * strip.size(1) + column * 10) * strip.size(2) + i]);
      return values;
    };
    std::vector<double> black(cell(1, 0).size(), cell(1, 0)[0]);
    for (int64_t image = 0; image < 3; ++image) {
      CHECK(cell(2 * image + 1, 0) == black);           // no call has been made before the first step
      CHECK(cell(2 * image + 1, 1) != black);
      CHECK(cell(2 * image, 0) != cell(2 * image, steps));
    }
    bool ends_on_x0 =
        name == "ddpm" || name == "ddim" || name == "unipc" || name == "langevin" || name.starts_with("dpmpp");
    if (ends_on_x0) CHECK(cell(0, steps) == cell(1, steps));  // the last step returns the predicted image
  }
}

TEST_CASE("samples of the new methods depend neither on threads nor on the batch", "[cli]") {
  test::ScratchFolder folder;
  for (const char* name : {"f-pndm", "heun", "unipc", "deis", "dpmpp-sde-2m"}) {
    std::vector<std::string> arrays;
    for (const char* how : {"--threads 1 --batch 8", "--threads 2 --batch 8", "--threads 1 --batch 2",
                            "--threads 3 --batch 1"}) {
      std::string flags = concat_text(" --sampler ", name, " --steps 5 --count 5 --seed 11 --quiet --npy a.npy ", how);
      REQUIRE(mote_in(folder, words("sample --run " + trained() + flags)).code == 0);
      arrays.push_back(read_text(folder.path("a.npy")));
    }
    INFO(name);
    for (const std::string& array : arrays) CHECK((array == arrays[0]));
  }
}

}  // namespace
