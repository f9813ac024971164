// cmd_cluster_eval.cpp - `mote cluster eval`: how good a clustering is beside simple ones, and `mote cluster choose`: which
// of several runs to keep when there are no labels.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "apps/cluster_eval.h"
#include "apps/cmd_cluster.h"
#include "apps/page.h"
#include "apps/progress.h"
#include "apps/run_log.h"
#include "apps/scatter.h"
#include "apps/signals.h"
#include "apps/svg.h"
#include "diffusion/cluster/tsne.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

struct EvalOptions : ClusterSource {
  std::string out, classifier;
  int64_t each = 16, tries = 3, steps = 50, tsne = 2000;
  int64_t limit = -1;
};

std::vector<std::vector<std::string>> table_of(const std::vector<ClusterRow>& rows) {
  std::vector<std::vector<std::string>> table{{"labels from", "ACC", "NMI", "ARI", "tries"}};
  for (const ClusterRow& row : rows)
    table.push_back({row.name, score_text(row.scores.accuracy, row.spread.accuracy, row.tries),
                     score_text(row.scores.nmi, row.spread.nmi, row.tries),
                     score_text(row.scores.ari, row.spread.ari, row.tries), std::to_string(row.tries)});
  return table;
}

Json json_of(const std::vector<ClusterRow>& rows) {
  Json list = Json::array();
  for (const ClusterRow& row : rows)
    list.push_back({{"labels_from", row.name}, {"accuracy", number_json(row.scores.accuracy)},
                    {"accuracy_spread", row.spread.accuracy}, {"nmi", number_json(row.scores.nmi)},
                    {"nmi_spread", row.spread.nmi}, {"ari", number_json(row.scores.ari)},
                    {"ari_spread", row.spread.ari}, {"tries", row.tries}});
  return list;
}

/// The run as its files say it, images encoded, labels found.
struct Encoded {
  Dataset data;
  cluster::Codes codes;
  Tensor clusters;   // i64 [N]
};

Encoded encode_split(cluster::Model& model, const ClusterCheckpoint& checkpoint, const DataOptions& options, Device device,
                     bool quiet) {
  Encoded encoded{load_dataset(options), {}, {}};
  Progress progress("encode", 0, encoded.data.count(), "image", quiet);
  encoded.codes = encode_images(model, encoded.data.images, device, [&](int64_t done) {
    exit_if_stopped();
    progress.update(done);
  });
  progress.finish();
  encoded.clusters = cluster::label_codes(mixture_of(checkpoint), encoded.codes, view_of(checkpoint)).labels;
  return encoded;
}

Json json_of(const std::vector<cluster::KnnScore>& scores) {
  Json list = Json::array();
  for (const cluster::KnnScore& score : scores)
    list.push_back({{"k", score.k}, {"accuracy", score.accuracy}, {"share", score.share}});
  return list;
}

std::string knn_plot(const NeighbourCurves& curves, double cluster::KnnScore::*value, const std::string& title) {
  auto series = [&](const char* name, const std::vector<cluster::KnnScore>& scores) {
    Series line{name, {}, {}};
    for (const cluster::KnnScore& score : scores) {
      line.x.push_back(double(score.k));
      line.y.push_back(score.*value);
    }
    return line;
  };
  return svg_plot({title, "neighbours", {series("pixels", curves.pixels), series("codes", curves.codes)}});
}

/// pca.png and tsne.png of the first images' codes, coloured by class, and by cluster beside.
void add_planes(Page& page, const std::string& folder, const Encoded& encoded, const EvalOptions& o) {
  int64_t count = std::min(o.tsne, encoded.data.count());
  Tensor codes = encoded.codes.mean.rows(0, count), clusters = encoded.clusters.rows(0, count);
  page.heading(concat_text("The codes of ", count, " images"));
  page.html("<div class=\"grids\">\n");
  auto show = [&](const std::string& name, const Tensor& plane) {
    auto save = [&](const std::string& by, const Tensor& labels) {
      std::string file = folder + "/" + name + by + ".png";
      io::save_png(file, scatter_picture(plane, labels));
      page.figure(file, "earlier", name + by, concat_text(name, by.empty() ? ", by class" : ", by cluster"));
    };
    if (encoded.data.labels.defined()) save("", encoded.data.labels.rows(0, count));
    save("-clusters", clusters);
  };
  show("pca", pca_plane(codes));
  if (count >= 5) {
    Progress progress("t-SNE", 0, cluster::TsneOptions{}.iterations, "iteration", o.common.quiet);
    show("tsne", tsne_plane(codes, o.common.seed, [&](int iteration) {
           exit_if_stopped();
           progress.update(iteration);
         }));
    progress.finish();
  }
  page.html("</div>\n");
  page.note("In t-SNE pictures neighbourhoods mean something, distances and sizes do not.");
}

void run_eval(const EvalOptions& o) {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, parts...);
  };
  require(o.each >= 0, "--each: must be 0 (draw nothing) or more, got ", o.each);
  require(o.tries >= 0, "--tries: must be 0 (no rows beside) or more, got ", o.tries);
  require(o.tsne == 0 || (o.tsne >= 4 && o.tsne <= cluster::kMostTsnePoints), "--tsne: must be 0 (no pictures) or 4 to ",
          cluster::kMostTsnePoints, ", got ", o.tsne);
  require(o.steps >= 1, "--steps: must be 1 or more, got ", o.steps);
  require(!o.out.empty() || !o.run.empty(), "--out: a folder is needed where --run is not given");
  Device device = start(o.common);
  ClusterCheckpoint checkpoint = o.load();
  const cluster::Mixture& mixture = mixture_of(checkpoint);
  int64_t K = mixture.components();
  std::unique_ptr<cluster::Model> model = model_of(checkpoint, o.weights);
  model->to(device);
  std::string folder = o.out.empty() ? o.run + "/eval" : o.out;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(Error::Kind::resource, "--out: cannot make ", folder, ": ", error.message());
  watch_signals("\nmote: stopping\n");

  DataOptions options = ClusterImages{}.options(checkpoint);
  if (o.limit >= 0) options.limit = o.limit;
  Encoded train = encode_split(*model, checkpoint, options, device, o.common.quiet);
  const Dataset& data = train.data;
  bool labelled = data.labels.defined();
  std::vector<ClusterRow> rows;
  NeighbourCurves curves;
  if (labelled) {
    rows.push_back({"this run", score_labels(train.clusters, data.labels)});
    std::vector<std::string> splits = dataset_splits(options.spec);
    std::optional<Encoded> test;
    if (std::find(splits.begin(), splits.end(), "test") != splits.end()) {
      DataOptions held_out = options;
      held_out.split = "test";
      test = encode_split(*model, checkpoint, held_out, device, o.common.quiet);
      rows.push_back({concat_text("this run, ", test->data.count(), " test images"),
                      score_labels(test->clusters, test->data.labels)});
    }
    if (o.tries > 0) {
      exit_if_stopped();
      rows.push_back(raw_kmeans_row(data, K, o.tries));
      exit_if_stopped();
      rows.push_back(pca_mixture_row(data, K, o.tries));
    }
    exit_if_stopped();
    curves = neighbour_curves(data, train.codes.mean, test ? &test->data : nullptr, test ? test->codes.mean : Tensor());
  }

  Json json = {{"data", data.name}, {"images", data.count()}, {"k", K}, {"step", checkpoint.step},
               {"free_energy", checkpoint.free_energy}, {"noise", checkpoint.noise}, {"matching", checkpoint.matching},
               {"rows", json_of(rows)}, {"checkpoint", checkpoint.path}, {"checkpoint_hash", checkpoint.hash}};
  Page page(run_name(o.run.empty() ? folder : o.run) + ", evaluated");
  if (labelled) {
    page.heading("Against the labels");
    page.table(table_of(rows));
    page.note("Means and standard deviations over tries, each of one k-means++ start. Labels were never used for training or choosing.");
  } else {
    page.note("The data have no labels to compare with.");
  }

  if (labelled) {
    page.heading("Nearest neighbours: does a neighbourhood mix classes?");
    page.html("<div class=\"plots\">\n" + knn_plot(curves, &cluster::KnnScore::accuracy, "Accuracy of the majority") +
              knn_plot(curves, &cluster::KnnScore::share, "Share of neighbours of the right class") + "</div>\n");
    json["neighbours"] = {{"pixels", json_of(curves.pixels)}, {"codes", json_of(curves.codes)}};
  }
  if (o.tsne > 0) add_planes(page, folder, train, o);

  if (o.each > 0) {
    std::vector<int64_t> all(mixture.weights.to_vector().size());
    std::iota(all.begin(), all.end(), 0);
    CodedDraw draw;
    draw.sampler = ClipChoice{}.applied({.name = "ddim", .steps = std::min(o.steps, model->schedule().steps())});
    draw.seed = o.common.seed;
    Progress progress("draw", 0, (K * o.each + draw.batch - 1) / draw.batch * draw.sampler.steps, "step", o.common.quiet);
    draw.on_step = [&](int64_t done, int64_t) {
      exit_if_stopped();
      progress.update(done);
    };
    Tensor drawn = draw_coded(*model, component_codes(mixture, all, o.each, o.common.seed), draw, device);
    progress.finish();
    std::string picture = folder + "/samples.png";
    io::save_png(picture, io::image_grid(drawn, o.each));
    page.heading("Draws of every component, a row each");
    page.figure(picture, "last", "draws of every component", concat_text("ddim, ", draw.sampler.steps, " steps"));
    if (labelled && data.classes() >= 2 && data.count() >= 20) {
      FeatureNet net = feature_net(o.classifier, options, o.common.quiet);
      ClusterImagesSeen seen = classify_drawn(net, drawn, o.each, train.clusters, data.labels, K);
      page.heading("What the classifier " + net.name() + " sees in them");
      page.table(table_of(seen, data.class_names));
      page.note(concat_text("It puts ", score_text(seen.mean_share, 0, 1), " of the draws into the commonest class of their cluster; of ",
                            net.held_out, " held-out images it finds the class of ", score_text(net.accuracy, 0, 1), "."));
      json.update(json_of(seen, net));
    }
  }
  io::write_file_atomic(folder + "/eval.json", json.dump(2) + "\n");
  io::write_file_atomic(folder + "/eval.html", page.finish());
  json["report"] = folder + "/eval.html";
  if (o.common.json) {
    std::cout << json.dump(2) << "\n";
    return;
  }
  for (const std::vector<std::string>& line : table_of(rows)) std::printf("%-32s %-20s %-20s %-20s %s\n", line[0].c_str(),
                                                                          line[1].c_str(), line[2].c_str(), line[3].c_str(),
                                                                          line[4].c_str());
  if (json.contains("drawn_in_majority_class"))
    std::printf("draws that the classifier puts into the commonest class of their cluster: %s\n",
                score_text(json["drawn_in_majority_class"].is_number() ? json["drawn_in_majority_class"].get<double>() : NAN, 0, 1).c_str());
  std::printf("%s/eval.html\n", folder.c_str());
}

// ---- choose --------------------------------------------------------------------------------------------------------

struct ChooseOptions {
  CommonOptions common;
  std::vector<std::string> runs;
};

/// The run with the least F_lambda. Runs on other data, or whose F_lambda is another function, are not compared.
void run_choose(const ChooseOptions& o) {
  if (o.runs.empty()) fail(Error::Kind::usage, "no run given, for instance: mote cluster choose runs/a runs/b");
  std::vector<ClusterCheckpoint> all;
  for (const std::string& run : o.runs) {
    all.push_back(load_newest(run, "copy it over the damaged one to use it", load_cluster_checkpoint));
    mixture_of(all.back());
    auto weight = [](const ClusterCheckpoint& c) { return cluster_config_from_json(c.train).lambda; };
    auto same = [&](const ClusterCheckpoint& a, const ClusterCheckpoint& b) {
      return a.data_hash == b.data_hash && a.config.schedule == b.config.schedule && a.config.T == b.config.T &&
             weight(a) == weight(b);
    };
    if (!same(all.front(), all.back()))
      fail(Error::Kind::usage, "F_lambda of ", o.runs.front(), " and of ", run,
           " are not comparable: data, schedule, T and lambda must be the same");
  }
  auto best = std::min_element(all.begin(), all.end(), [](const ClusterCheckpoint& a, const ClusterCheckpoint& b) {
                return a.free_energy < b.free_energy;
              }) - all.begin();
  Json json = {{"chosen", o.runs[size_t(best)]}, {"runs", Json::array()}};
  for (size_t i = 0; i < all.size(); ++i)
    json["runs"].push_back({{"run", o.runs[i]}, {"step", all[i].step}, {"free_energy", all[i].free_energy},
                            {"noise", all[i].noise}, {"matching", all[i].matching}});
  if (o.common.json) {
    std::cout << json.dump(2) << "\n";
    return;
  }
  for (size_t i = 0; i < all.size(); ++i)
    std::printf("%c F %.5f  noise %.6f a pixel  matching %.4f nats  step %lld  %s\n", i == size_t(best) ? '*' : ' ',
                all[i].free_energy, all[i].noise, all[i].matching, static_cast<long long>(all[i].step), o.runs[i].c_str());
}

}  // namespace

void add_cluster_eval(CLI::App& cluster) {
  auto o = std::make_shared<EvalOptions>();
  CLI::App& sub = add_command(cluster, "eval", "Score the clusters of a run beside simple clusterings, draw from them",
                              "mote cluster eval --run runs/clusters --classifier lenet.safetensors", o->common,
                              [o] { run_eval(*o); });
  o->add_flags(sub);
  sub.add_option("--out", o->out, "folder for eval.html, eval.json and pictures (default: eval in the run)")->group("Output");
  sub.add_option("--limit", o->limit, "only the first N images (default: as many as the run)")->group("Data");
  sub.add_option("--tries", o->tries, "starts of each simple clustering (0: none)")->group("Data")->capture_default_str();
  sub.add_option("--tsne", o->tsne, "images in the PCA and t-SNE pictures (0: no pictures)")
      ->group("Data")->capture_default_str();
  sub.add_option("--classifier", o->classifier, "file of the classifier that looks at the draws; trained on the data if missing")
      ->group("Draws");
  sub.add_option("--each", o->each, "draws of every component (0: none)")->group("Draws")->capture_default_str();
  sub.add_option("--steps", o->steps, "ddim steps of a draw")->group("Draws")->capture_default_str();

  auto c = std::make_shared<ChooseOptions>();
  CLI::App& choose = add_command(cluster, "choose", "Which of several runs has the least F_lambda: a choice without labels",
                                 "mote cluster choose runs/seed1 runs/seed2 runs/seed3", c->common, [c] { run_choose(*c); });
  choose.add_option("runs", c->runs, "run folders");
}

}  // namespace mote::apps
