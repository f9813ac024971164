// cmd_gmm.cpp - `mote gmm fit|assign`: a Gaussian mixture of vectors, alone: fitted, its number of components chosen by
// BIC, and asked which component each vector belongs to.
#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "apps/svg.h"
#include "apps/vectors.h"
#include "diffusion/cluster/mixture.h"
#include "tensor/error.h"
#include "tensor/io/file.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kGroups = "mixture.groups";   // of the metadata: the group of every component

struct GmmOptions {
  CommonOptions common;
  std::string vectors, out, assignments, curve, mixture;
  std::string k = "8", covariance = "diag", start;
  std::vector<const CLI::Option*> decided_by_start;  // flags that --start leaves nothing to say
  bool standardize = false;
  int64_t join = 0;   // components into so many groups, 0: as they are
  cluster::MixtureOptions fit;
};

std::string short_number(const char* format, double value) {
  char text[40];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// "8" or "2..20".
std::vector<int64_t> orders_of(const std::string& text) {
  auto number = [&](const std::string& part) {
    int64_t value = 0;
    auto [stop, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || stop != part.data() + part.size())
      fail(Error::Kind::usage, "--k: a number of components such as 8, or a range such as 2..20, is needed, got '",
           text, "'");
    if (value < 1) fail(Error::Kind::usage, "--k: a mixture has 1 component or more, got ", value);
    return value;
  };
  size_t dots = text.find("..");
  int64_t low = number(text.substr(0, dots)), high = dots == std::string::npos ? low : number(text.substr(dots + 2));
  if (high < low) fail(Error::Kind::usage, "--k: the range ", text, " is empty; the smaller number comes first");
  std::vector<int64_t> orders(size_t(high - low + 1));
  std::iota(orders.begin(), orders.end(), low);
  return orders;
}

// ---- Data ----------------------------------------------------------------------------------------------------------

/// A CSV of the points of a file: row, most probable component (or group of them), log-likelihood, and the probability of
/// every one.
void save_assignments(const std::string& path, const cluster::Posterior& answer) {
  int64_t N = answer.probabilities.size(0), K = answer.probabilities.size(1);
  io::write_file_atomic(path, [&](const io::Append& append) {
    std::string text = "row,cluster,log_likelihood";
    for (int64_t k = 0; k < K; ++k) text += concat_text(",p", k);
    text += "\n";
    for (int64_t n = 0; n < N; ++n) {
      text += concat_text(n, ",", answer.labels.data<int64_t>()[n]) +
              short_number(",%.8g", answer.log_likelihood.data<double>()[n]);
      for (int64_t k = 0; k < K; ++k) text += short_number(",%.6g", answer.probabilities.data<double>()[n * K + k]);
      text += "\n";
      if (text.size() < (1 << 20) && n + 1 < N) continue;
      append(text.data(), text.size());
      text.clear();
    }
  });
}

/// The groups that `fit --join` made, by the metadata of its file; undefined without.
Tensor groups_of(const std::string& path, const std::map<std::string, std::string>& metadata, int64_t components) {
  auto found = metadata.find(kGroups);
  if (found == metadata.end()) return {};
  Json list = Json::parse(found->second, nullptr, false);
  bool is_right = list.is_array() && int64_t(list.size()) == components;
  Tensor groups = empty({components}, DType::i64);
  for (size_t k = 0; is_right && k < list.size(); ++k) {
    is_right = list[k].is_number() && list[k].get<double>() >= 0 && list[k].get<double>() < double(components);
    if (is_right) groups.data<int64_t>()[k] = list[k].get<int64_t>();
  }
  if (!is_right) fail(Error::Kind::checkpoint, path, ": its groups do not fit ", components, " components");
  return groups;
}

// ---- The curve -----------------------------------------------------------------------------------------------------

std::string curve_csv(const std::vector<cluster::OrderFit>& fits) {
  std::string text = "components,parameters,log_likelihood,bic,aic,icl,iterations,converged\n";
  for (const cluster::OrderFit& f : fits)
    text += concat_text(f.components, ",", f.fit.mixture.parameters(), ",", number_text(f.criteria.log_likelihood), ",",
                        number_text(f.criteria.bic), ",", number_text(f.criteria.aic), ",", number_text(f.criteria.icl),
                        ",", f.fit.iterations, ",", f.fit.converged ? 1 : 0, "\n");
  return text;
}

std::string curve_svg(const std::vector<cluster::OrderFit>& fits) {
  Series bic{"BIC", {}, {}}, icl{"ICL", {}, {}}, aic{"AIC", {}, {}};
  for (const cluster::OrderFit& f : fits) {
    for (Series* series : {&bic, &icl, &aic}) series->x.push_back(double(f.components));
    bic.y.push_back(f.criteria.bic);
    icl.y.push_back(f.criteria.icl);
    aic.y.push_back(f.criteria.aic);
  }
  std::string plot = svg_plot({"information criteria (least is best)", "components", {bic, icl, aic}});
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 260\" width=\"640\" height=\"260\">\n<style>\n"
         "text { font: 12px sans-serif; fill: #68727d; } text.title { font-size: 13px; font-weight: 600; fill: "
         "#1d2329; }\n"
         "path { fill: none; stroke-width: 1.8; } .grid { stroke: #e3e6e9; } .axis { stroke: #68727d; }\n"
         ".line0 { stroke: #2563c9; } .line1 { stroke: #c2571a; } .line2 { stroke: #2f8f4e; }\n"
         "</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n" +
         plot + "</svg>\n";
}

/// The CSV lies beside the picture: bic.svg and bic.csv.
std::string csv_beside(const std::string& svg) { return svg.substr(0, svg.size() - 4) + ".csv"; }

// ---- fit -----------------------------------------------------------------------------------------------------------

Json json_of(const cluster::OrderFit& f) {
  return {{"components", f.components},
          {"parameters", f.fit.mixture.parameters()},
          {"log_likelihood", f.criteria.log_likelihood},
          {"bic", f.criteria.bic},
          {"aic", f.criteria.aic},
          {"icl", f.criteria.icl},
          {"iterations", f.fit.iterations},
          {"converged", f.fit.converged},
          {"repaired", f.fit.repaired},
          {"floored", f.fit.floored}};
}

void require_f64(const CommonOptions& common) {
  if (common.precision != "f32")
    fail(Error::Kind::usage, "--precision ", common.precision, ": mixtures are computed in f64; leave the flag out");
}

void require_fit(const GmmOptions& o) {
  require_f64(o.common);
  if (o.vectors.empty()) fail(Error::Kind::usage, "a file of vectors is needed: .npy [N, D] or CSV");
  if (o.out.empty()) fail(Error::Kind::usage, "--out FILE.safetensors is needed");
  if (!o.curve.empty() && !o.curve.ends_with(".svg"))
    fail(Error::Kind::usage, "--curve: needs a name that ends in .svg (its numbers go into a .csv beside it), got ",
         o.curve);
  auto at_least = [](const char* flag, double value, double least) {
    if (!(value >= least)) fail(Error::Kind::usage, flag, ": must be ", least, " or more, got ", value);
  };
  at_least("--restarts", o.fit.restarts, 1);
  at_least("--join", double(o.join), 0);
  at_least("--iterations", o.fit.max_iterations, 1);
  at_least("--tolerance", o.fit.tolerance, 0);
  at_least("--map-weights", o.fit.weight_prior, 0);
  at_least("--relative-floor", o.fit.relative_floor, 0);
  at_least("--minibatch", double(o.fit.batch), 0);
  at_least("--dead-share", o.fit.dead_share, 0);
  if (!(o.fit.dead_share < 1)) fail(Error::Kind::usage, "--dead-share: must be below 1, got ", o.fit.dead_share);
  if (!(o.fit.damping > 0 && o.fit.damping <= 1))
    fail(Error::Kind::usage, "--damping: must lie in (0, 1], got ", o.fit.damping);
  for (const CLI::Option* flag : o.decided_by_start)
    if (!o.start.empty() && flag->count() > 0)
      fail(Error::Kind::usage, flag->get_name(), ": --start decides it; give one of the two");
  if (!(o.fit.variance_floor > 0)) fail(Error::Kind::usage, "--floor: must be above 0, got ", o.fit.variance_floor);
}

void run_fit(const GmmOptions& o) {
  require_fit(o);
  std::vector<int64_t> orders = orders_of(o.k);
  cluster::MixtureOptions options = o.fit;
  options.covariance = cluster::covariance_named(o.covariance);
  options.seed = o.common.seed;
  start_on_cpu(o.common);
  cluster::Mixture warm;
  if (!o.start.empty()) {
    warm = cluster::load_mixture(o.start);
    orders = {warm.components()};
    options.covariance = warm.covariance;
  }
  Tensor x = load_vectors(o.vectors);
  int64_t N = x.size(0), D = x.size(1);
  if (!o.start.empty() && warm.width() != D)
    fail(Error::Kind::data, o.vectors, " holds vectors of width ", D, ", the mixture in ", o.start, " is of width ",
         warm.width());
  if (o.join > orders.front())
    fail(Error::Kind::usage, "--join: ", orders.front(), " components cannot make ", o.join, " groups");
  if (orders.back() > N)
    fail(Error::Kind::data, "--k: ", orders.back(), " components need as many vectors, ", o.vectors, " has ", N);
  watch_signals("\nmote: stopping\n");

  Columns columns = columns_of(x);
  Tensor scale = columns.scale, shift = columns.mean, fitted = x;
  if (o.standardize) {
    fitted = standardized(x, columns);
    if (!o.start.empty()) {
      Tensor inverse = empty_like(scale), back = empty_like(shift);
      for (int64_t d = 0; d < D; ++d) {
        inverse.data<double>()[d] = 1 / scale.data<double>()[d];
        back.data<double>()[d] = -shift.data<double>()[d] / scale.data<double>()[d];
      }
      warm = cluster::rescaled(warm, inverse, back);
    }
  }

  Progress progress("gmm", 0, int64_t(orders.size()) * options.restarts, "start", o.common.quiet);
  if (columns.constant > 0)
    progress.say(concat_text("mote: ", columns.constant, " of ", D,
                             " features are constant; their variances stand at the floor"));
  int64_t order = 0;
  options.progress = [&](int restart, int iteration, double log_likelihood) {
    progress.update(order * options.restarts + restart,
                    concat_text("K ", orders[size_t(order)], ", iteration ", iteration,
                                short_number(", log-likelihood %.6g", log_likelihood)));
    return stop_signal() == 0;
  };
  cluster::Points points{x};
  auto begin = std::chrono::steady_clock::now();
  std::vector<cluster::OrderFit> fits;
  if (o.start.empty()) {
    fits = cluster::fit_orders({fitted}, orders, options, [&](const cluster::OrderFit&) {
      exit_if_stopped();
      ++order;
    });
  } else {
    cluster::MixtureFit fit = cluster::fit_mixture_from({fitted}, warm, options);
    exit_if_stopped();
    fits.push_back({orders[0], fit, {}});
    ++order;
  }
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  progress.update(order * options.restarts);
  progress.finish();
  Tensor groups;   // by distances in the space that was fitted in
  if (o.join > 0) groups = cluster::join_components(fits[cluster::best_order(fits)].fit.mixture, o.join);
  for (cluster::OrderFit& f : fits) {
    if (o.standardize) f.fit.mixture = cluster::rescaled(f.fit.mixture, scale, shift);  // back to the units of the file
    if (o.standardize || !o.start.empty()) f.criteria = cluster::criteria(f.fit.mixture, points);
  }

  const cluster::OrderFit& best = fits[cluster::best_order(fits)];
  std::map<std::string, std::string> metadata = {{"command", command_line()}, {"seed", std::to_string(o.common.seed)}};
  if (groups.defined()) metadata[kGroups] = Json(groups.to_vector()).dump();
  cluster::save_mixture(o.out, best.fit.mixture, metadata);
  if (!o.assignments.empty()) {
    cluster::Posterior answer = cluster::posterior(best.fit.mixture, points);
    save_assignments(o.assignments, groups.defined() ? cluster::joined(answer, groups) : answer);
  }
  if (!o.curve.empty()) {
    io::write_file_atomic(o.curve, curve_svg(fits));
    io::write_file_atomic(csv_beside(o.curve), curve_csv(fits));
  }
  if (o.common.json) {
    Json json = {{"command", command_line()},
                 {"seed", o.common.seed},
                 {"vectors", N},
                 {"width", D},
                 {"covariance", cluster::name_of(options.covariance)},
                 {"constant_features", columns.constant},
                 {"seconds", seconds},
                 {"best", json_of(best)}};
    json["best"]["weights"] = best.fit.mixture.weights.to_vector();
    json["best"]["mean_log_likelihood"] = best.criteria.log_likelihood / double(N);
    json["curve"] = Json::array();
    for (const cluster::OrderFit& f : fits) json["curve"].push_back(json_of(f));
    json["out"] = o.out;
    std::cout << json.dump(2) << "\n";
    return;
  }
  for (const cluster::OrderFit& f : fits) {
    std::printf("K %-3ld mean log-likelihood %.8g  BIC %.8g  AIC %.8g  ICL %.8g  %ld iterations%s", long(f.components),
                f.criteria.log_likelihood / double(N), f.criteria.bic, f.criteria.aic, f.criteria.icl,
                long(f.fit.iterations), f.fit.converged ? "" : ", not converged");
    if (f.fit.repaired > 0) std::printf(", dead components given half of another: %ld", long(f.fit.repaired));
    if (f.fit.floored > 0) std::printf(", components at the variance floor: %ld", long(f.fit.floored));
    std::printf("%s\n", fits.size() > 1 && &f == &best ? "  <- least BIC" : "");
  }
  std::printf("%s\n", o.out.c_str());
}

// ---- assign --------------------------------------------------------------------------------------------------------

void run_assign(const GmmOptions& o) {
  require_f64(o.common);
  if (o.vectors.empty()) fail(Error::Kind::usage, "a file of vectors is needed: .npy [N, D] or CSV");
  if (o.mixture.empty()) fail(Error::Kind::usage, "--mixture FILE is needed: what mote gmm fit has written");
  if (o.out.empty()) fail(Error::Kind::usage, "--out FILE.csv is needed");
  start_on_cpu(o.common);
  std::map<std::string, std::string> metadata;
  cluster::Mixture mixture = cluster::load_mixture(o.mixture, &metadata);
  Tensor x = load_vectors(o.vectors);
  if (x.size(1) != mixture.width())
    fail(Error::Kind::data, o.vectors, " holds vectors of width ", x.size(1), ", the mixture in ", o.mixture,
         " is of width ", mixture.width());
  cluster::Posterior answer = cluster::posterior(mixture, {x});
  if (Tensor groups = groups_of(o.mixture, metadata, mixture.components()); groups.defined())
    answer = cluster::joined(answer, groups);
  save_assignments(o.out, answer);
  std::vector<int64_t> counts(size_t(answer.probabilities.size(1)), 0);
  for (int64_t n = 0; n < x.size(0); ++n) ++counts[size_t(answer.labels.data<int64_t>()[n])];
  if (o.common.json) {
    Json json = {{"command", command_line()},
                 {"vectors", x.size(0)},
                 {"components", mixture.components()},
                 {"mean_log_likelihood", answer.mean_log_likelihood},
                 {"counts", counts},
                 {"out", o.out}};
    std::cout << json.dump(2) << "\n";
    return;
  }
  std::printf("%s vectors, mean log-likelihood %.8g, of component", count_text(x.size(0)).c_str(),
              answer.mean_log_likelihood);
  for (size_t k = 0; k < counts.size(); ++k) std::printf("%s %zu: %ld", k ? "," : "", k, long(counts[k]));
  std::printf("\n%s\n", o.out.c_str());
}

}  // namespace

void add_gmm_command(CLI::App& app) {
  CLI::App* gmm = app.add_subcommand("gmm", "Gaussian mixtures of vectors");
  gmm->require_subcommand(1);
  gmm->footer(
      "Example:\n  mote gmm fit vectors.npy --k 2..20 --covariance full --restarts 5 --curve bic.svg --out "
      "mixture.safetensors");
  auto o = std::make_shared<GmmOptions>();
  CLI::App& fit =
      add_command(*gmm, "fit", "Fit a mixture by EM",
                  "mote gmm fit vectors.npy --k 10 --covariance full --restarts 5 --out mixture.safetensors "
                  "--assignments clusters.csv\n"
                  "  mote gmm fit vectors.csv --k 2..20 --curve bic.svg --out mixture.safetensors",
                  o->common, [o] { run_fit(*o); });
  fit.add_option("vectors", o->vectors, ".npy [N, D] or CSV, a vector a line");
  fit.add_option("--out", o->out, "the mixture, a safetensors file");
  fit.add_option("--assignments", o->assignments, "CSV: row, cluster, log-likelihood, probability of every component");
  fit.add_option("--curve", o->curve, "SVG of BIC, ICL and AIC over the range of --k; the numbers in a .csv beside it");
  const char* group = "Mixture";
  fit.add_option("--k", o->k, "components, or a range such as 2..20, of which the least BIC is kept")
      ->group(group)
      ->capture_default_str();
  fit.add_option("--covariance", o->covariance, "diag, tied or full")->group(group)->capture_default_str();
  fit.add_option("--start", o->start, "a mixture to go on from, instead of --k, --covariance and --restarts")
      ->group(group);
  fit.add_flag("--standardize", o->standardize,
               "fit with every feature scaled to variance 1; the mixture is in the units of the file")
      ->group(group);
  fit.add_option("--join", o->join, "join components into so many groups, for clusters that are no Gaussians: assignments name "
                                    "groups (0: components)")
      ->group(group)
      ->capture_default_str();
  fit.add_option("--restarts", o->fit.restarts, "k-means++ starts; the highest likelihood is kept")
      ->group(group)
      ->capture_default_str();
  fit.add_option("--iterations", o->fit.max_iterations, "at most (epochs with --minibatch)")
      ->group(group)
      ->capture_default_str();
  fit.add_option("--tolerance", o->fit.tolerance, "change of the mean log-likelihood that ends a fit")
      ->group(group)
      ->capture_default_str();
  fit.add_option("--map-weights", o->fit.weight_prior,
                 "A of the weights (N_k + A) / (N + K A), points given to each component for nothing")
      ->group(group)
      ->capture_default_str();
  fit.add_option("--floor", o->fit.variance_floor, "least variance along any axis")
      ->group(group)
      ->capture_default_str();
  fit.add_option("--relative-floor", o->fit.relative_floor, "the same as a share of the mean variance of the features")
      ->group(group)
      ->capture_default_str();
  fit.add_option("--minibatch", o->fit.batch, "vectors of a stepwise update (0: all, plain EM)")
      ->group(group)
      ->capture_default_str();
  fit.add_option("--damping", o->fit.damping, "share of the new statistics in an iteration")
      ->group(group)
      ->capture_default_str();
  fit.add_option("--dead-share", o->fit.dead_share,
                 "a component below this share of an equal one is dead and is given half of the heaviest (0: never)")
      ->group(group)
      ->capture_default_str();
  for (const char* flag : {"--k", "--covariance", "--restarts"}) o->decided_by_start.push_back(fit.get_option(flag));

  auto a = std::make_shared<GmmOptions>();
  CLI::App& assign = add_command(*gmm, "assign", "The component of every vector, with probabilities",
                                 "mote gmm assign vectors.npy --mixture mixture.safetensors --out clusters.csv",
                                 a->common, [a] { run_assign(*a); });
  assign.add_option("vectors", a->vectors, ".npy [N, D] or CSV, a vector a line");
  assign.add_option("--mixture", a->mixture, "what mote gmm fit has written");
  assign.add_option("--out", a->out, "CSV: row, cluster, log-likelihood, probability of every component");
}

}  // namespace mote::apps
