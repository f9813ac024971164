#include "diffusion/samplers/path.h"

#include <algorithm>
#include <cmath>

#include "diffusion/samplers/sampler.h"

namespace mote {

// ---- Names ---------------------------------------------------------------------------------------------------------

namespace {

std::string list_of(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

bool is_one_of(const std::string& name, const std::vector<std::string>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void require_one_of(const char* what, const std::string& name, const std::vector<std::string>& names) {
  if (!is_one_of(name, names))
    fail(Error::Kind::usage, what, " '", name, "' is unknown: choose one of ", list_of(names));
}

}  // namespace

const std::vector<std::string>& path_grid_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list = grid_names();
    list.insert(list.end(), {"lambda-uniform", "karras"});
    return list;
  }();
  return names;
}

const std::vector<std::string>& convention_names() {
  static const std::vector<std::string> names = {"ours", "pndm-repo", "diffusers"};
  return names;
}

// ---- Even spacing in a function of the level -----------------------------------------------------------------------

namespace {

struct Variable {
  std::function<double(const Level&)> of;
  std::function<Level(double)> level;
};

Level halfway_in(const Variable& variable, const Level& from, const Level& to) {
  return variable.level((variable.of(from) + variable.of(to)) / 2);
}

/// Schedule or VpSchedule: lambda, or u^(1 / rho), whose levels follow from lambda = -ln u.
template <class Curve>
Variable lambda_or_u(const Curve& curve, const std::string& grid, double rho) {
  if (grid == "lambda-uniform")
    return {[](const Level& level) { return level.lambda(); },
            [curve](double lambda) { return curve.at_lambda(lambda); }};
  return {[rho](const Level& level) { return std::pow(level.u(), 1 / rho); },
          [curve, rho](double root) { return curve.at_lambda(-rho * std::log(root)); }};
}

/// points levels, evenly spaced, both ends as they are given.
std::vector<Level> spaced(const Variable& variable, const Level& first, const Level& last, int64_t points) {
  double begin = variable.of(first), end = variable.of(last);
  std::vector<Level> levels = {first};
  for (int64_t i = 1; i + 1 < points; ++i)
    levels.push_back(variable.level(begin + (end - begin) * double(i) / double(points - 1)));
  if (points > 1) levels.push_back(last);
  return levels;
}

}  // namespace

Path continuous_path(const VpSchedule& curve, double t_first, double t_last, int64_t N, const std::string& grid,
                     double rho) {
  require_one_of("grid of continuous time", grid, {"uniform", "lambda-uniform", "karras"});
  if (N < 1) fail(Error::Kind::usage, "continuous_path: ", N, " steps asked for, needs 1 or more");
  Variable variable = lambda_or_u(curve, grid, rho);
  if (grid == "uniform")
    variable = {[](const Level& level) { return level.t; }, [curve](double t) { return curve.at(t); }};
  auto halfway = [variable](const Level& from, const Level& to) { return halfway_in(variable, from, to); };
  return {spaced(variable, curve.at(t_first), curve.at(t_last), N + 1), halfway, curve};
}

// ---- The conventions -----------------------------------------------------------------------------------------------

namespace {

Level end_level(const Schedule& schedule, bool is_clean) {
  if (is_clean) return {};
  Level end = schedule.level(0);
  end.t = -1;   // noise is left in the image, but no network is called there
  return end;
}

/// Our own: everything by the table, nothing beyond it.
Path our_path(const Schedule& schedule, const SamplerOptions& options, bool is_clean) {
  constexpr double kLeastLambda = -5.1;
  int64_t T = options.start < 0 ? schedule.steps() : options.start + 1;
  int64_t N = options.steps, points = is_clean ? N : N + 1;
  Path path;
  if (options.grid == "lambda-uniform" || options.grid == "karras") {
    Level first = schedule.level(T - 1), last = schedule.level(0);
    if (options.start < 0 && first.lambda() < kLeastLambda && last.lambda() > kLeastLambda)
      first = schedule.at_lambda(kLeastLambda);
    Variable variable = lambda_or_u(schedule, options.grid, 7);   // rho = 7                    [Karras 2022]
    path.nodes = spaced(variable, first, last, points);
    path.halfway = [variable](const Level& from, const Level& to) { return halfway_in(variable, from, to); };
  } else {
    bool ends_at_zero = options.grid != "trailing";   // of N + 1 trailing levels the last is T / (N + 1) - 1
    for (const TimeStep& step : timesteps(T, ends_at_zero ? points : N, options.grid))
      path.nodes.push_back(schedule.level(step.t));
    if (!is_clean && !ends_at_zero) {
      if (path.nodes.back().t == 0)
        fail(Error::Kind::usage, options.name, ": ", N, " trailing steps reach level 0 one step before they should end "
             "there; needs N with T / N >= 1.5, T = ", T);
      path.nodes.push_back(schedule.level(0));
    }
    path.halfway = [schedule](const Level& from, const Level& to) { return schedule.at((from.t + to.t) / 2); };
  }
  if (is_clean) path.nodes.push_back({});
  return path;
}

/// Levels 0, r, 2r, .. below T, and abar one place off.
Path pndm_repo_path(const Schedule& schedule, const SamplerOptions& options, bool is_clean) {
  int64_t T = schedule.steps();
  // The last multiple of r below T, plus one, must be a level: T - 1 may not be a multiple of r.
  auto is_legal = [T](int64_t N) { return (T - 1) % (T / N) != 0; };
  if (!is_legal(options.steps)) {
    int64_t below = options.steps;
    while (below > 0 && !is_legal(below)) --below;
    fail(Error::Kind::usage, "convention pndm-repo: ", options.steps, " steps of T = ", T, " reach network time ",
         T - 1, ", whose abar there is number ", T, " and does not exist; needs N with T - 1 no multiple of T / N",
         below > 0 ? concat_text(", such as ", below) : std::string());
  }
  auto level_at = [schedule](double t) {
    Level level = schedule.level(int64_t(std::floor(t)) + 1);
    level.t = t;
    return level;
  };
  Path path;
  int64_t stride = T / options.steps;
  for (int64_t t = (T - 1) / stride * stride; t >= 0; t -= stride) path.nodes.push_back(level_at(double(t)));
  path.nodes.push_back(end_level(schedule, is_clean));
  path.halfway = [level_at](const Level& from, const Level& to) { return level_at((from.t + to.t) / 2); };
  return path;
}

/// Lists as that library spaces them; the predecessor is the next of the list.
Path diffusers_path(const Schedule& schedule, Family family, const SamplerOptions& options, bool is_clean) {
  int64_t T = schedule.steps(), N = options.steps;
  // Exponential samplers there (heun is none of them) space one point more and drop the noiseless one.
  bool drops_last = family == Family::exponential && options.name != "heun" && options.grid != "trailing";
  int64_t points = drops_last ? N + 1 : N, stride = T / points;
  if (points > T)
    fail(Error::Kind::usage, "convention diffusers: ", N, " steps of ", options.name,
         " asked for, needs 1 to T - 1 = ", T - 1);
  std::vector<TimeStep> list = timesteps(T, points, options.grid);
  if (points == 1 && options.grid == "uniform") list = {{0, -1}};   // i r with i = 0, where ours starts from noise
  if (drops_last) list.pop_back();
  if (list[0].t + options.offset > T - 1) {
    auto reaches = [&](int64_t n) { return (n - 1) * (T / n) + options.offset; };
    int64_t below = points;
    while (below > 1 && reaches(below) > T - 1) --below;
    fail(Error::Kind::usage, "convention diffusers: ", N, " steps with offset ", options.offset, " reach level ",
         list[0].t + options.offset, ", the last is ", T - 1, "; needs fewer, such as ", below - (points - N));
  }
  if (family == Family::exponential && !is_clean && list.back().t + options.offset == 0)
    fail(Error::Kind::usage, "convention diffusers: the last of ", N, " ", options.grid,
         " steps would lead from level 0 to level 0, and ", options.name, " divides by its length in lambda; needs end clean");
  Path path;
  for (const TimeStep& step : list) path.nodes.push_back(schedule.level(step.t + options.offset));
  path.nodes.push_back(end_level(schedule, is_clean));
  path.halfway = [schedule, stride, name = options.name](const Level& from, const Level&) {
    if (stride < 2)
      fail(Error::Kind::usage, "convention diffusers: the half step of ", name,
           " is T / N / 2 rounded down, needs N <= T / 2 = ", schedule.steps() / 2);
    return schedule.level(int64_t(from.t) - stride / 2);
  };
  return path;
}

}  // namespace

Path path_of(const Schedule& schedule, Family family, const SamplerOptions& options) {
  require_one_of("timestep grid", options.grid, path_grid_names());
  require_one_of("index convention", options.convention, convention_names());
  if (!options.end.empty()) require_one_of("end", options.end, {"clean", "first"});
  int64_t T = schedule.steps(), N = options.steps;
  if (options.start < -1 || options.start >= T)
    fail(Error::Kind::usage, options.name, ": start at level ", options.start, ", needs 0 to T - 1 = ", T - 1);
  if (options.start >= 0) T = options.start + 1;
  if (N < 1 || N > T)
    fail(Error::Kind::usage, options.name, ": ", N, " sampling steps asked for, needs 1 to ",
         options.start < 0 ? "T" : "start + 1", " = ", T);

  bool is_ours = options.convention == "ours", is_diffusers = options.convention == "diffusers";
  auto refuse = [&](const auto&... parts) {
    fail(Error::Kind::usage, options.name, ", convention ", options.convention, ": ", parts...);
  };
  if (options.start >= 0 && (!is_ours || family == Family::flow))
    refuse("start = ", options.start, is_ours ? " given, but the flow begins at s = 1" : " belongs to convention ours");
  if (options.start >= 0 && !is_one_of(options.grid, {"trailing", "linspace", "lambda-uniform", "karras"}))
    refuse("grid ", options.grid, " does not begin at the start; needs trailing, linspace, lambda-uniform or karras");
  if (options.offset != 0 && !(is_diffusers && options.grid == "uniform"))
    refuse("offset = ", options.offset, " belongs to the uniform grid of convention diffusers");
  if (options.offset < 0 || options.offset >= T) refuse("offset = ", options.offset, ", needs 0 to T - 1 = ", T - 1);
  if (family == Family::flow) {
    if (!is_ours) refuse("time is continuous here; needs convention ours");
    if (!options.end.empty()) refuse("end '", options.end, "' given, but the flow ends at t = 0.001 of the whole time");
    if (!is_one_of(options.grid, {"uniform", "lambda-uniform", "karras"}))
      refuse("grid ", options.grid, " has whole levels only; needs uniform, lambda-uniform or karras");
    VpSchedule curve = VpSchedule::limit_of(schedule);
    return continuous_path(curve, curve.scale(), 1e-3 * curve.scale(), N, options.grid);
  }
  if (options.convention == "pndm-repo") {
    if (family != Family::pseudo) refuse("defined for ddim, s-pndm, f-pndm, plms and ipndm only");
    if (options.grid != "uniform") refuse("grid ", options.grid, " given, needs uniform");
    if (options.prediction != Prediction::eps)
      refuse("defined for networks that predict eps: with abar one level off, other outputs have no meaning");
    return pndm_repo_path(schedule, options, options.end == "clean");
  }
  if (is_diffusers) {
    if (!is_one_of(options.grid, {"uniform", "linspace", "trailing"}))
      refuse("grid ", options.grid, " given, needs uniform, linspace or trailing");
    bool is_clean = options.end.empty() ? family != Family::pseudo || options.name == "ddim" : options.end == "clean";
    return diffusers_path(schedule, family, options, is_clean);
  }
  bool is_clean = options.end != "first";
  if (!is_clean && N >= T)
    fail(Error::Kind::usage, options.name, ": ", N, " steps that end at level 0 asked for, needs 1 to T - 1 = ", T - 1);
  return our_path(schedule, options, is_clean);
}

}  // namespace mote
