// `mote gmm` and `mote eval cluster` as a user meets them: files, numbers, exit codes, messages.
#include "apps/vectors.h"
#include "diffusion/cluster/scores.h"
#include "tensor/io/npy.h"
#include "tests/mixture_support.h"
#include "tests/run_mote.h"

using namespace mote;
using namespace mote::test;
using Json = nlohmann::json;

namespace {

/// `mote TEXT` in the folder. No word holds a space.
Result mote_in(const ScratchFolder& folder, const std::string& text, const std::string& threads = "1") {
  return test::mote_in(folder, words(text) + Args{"--threads", threads});
}

}  // namespace

TEST_CASE("gmm fit finds the clusters, chooses K and writes what it found", "[cli][gmm]") {
  ScratchFolder folder;
  Tensor x = separated(3, 80, 4, 9, 1).to(DType::f32);
  io::save_npy(folder.path("x.npy"), x);
  io::save_npy(folder.path("y.npy"), separated_labels(3, 80));
  Json fit =
      done(mote_in(folder,
                   "gmm fit x.npy --k 1..5 --covariance full --restarts 3 --seed 2 --curve bic.svg --out m.safetensors "
                   "--assignments a.csv --json --quiet"))
          .json();
  CHECK(fit["best"]["components"] == 3);
  CHECK(fit["curve"].size() == 5);
  CHECK(fit["vectors"] == 240);

  cluster::Mixture mixture = cluster::load_mixture(folder.path("m.safetensors"));
  CHECK(mixture.covariance == Covariance::full);
  cluster::Criteria criteria = cluster::criteria(mixture, {x});
  CHECK(fit["best"]["bic"].get<double>() == Approx(criteria.bic).epsilon(1e-12));
  CHECK(fit["best"]["mean_log_likelihood"].get<double>() == Approx(criteria.log_likelihood / 240).epsilon(1e-12));

  std::string svg = read_text(folder.path("bic.svg"));
  CHECK(svg.starts_with("<svg xmlns="));
  CHECK(svg.find("BIC") != std::string::npos);
  apps::Table curve = apps::load_table(folder.path("bic.csv"));
  CHECK(curve.names[3] == "bic");
  CHECK((curve.values.shape() == Shape{5, 8}));
  CHECK(curve.values.data<double>()[2 * 8 + 3] == fit["curve"][2]["bic"].get<double>());

  apps::Table assigned = apps::load_table(folder.path("a.csv"));
  CHECK((assigned.values.shape() == Shape{240, 3 + 3}));
  cluster::Posterior answer = cluster::posterior(mixture, {x});
  for (int64_t n = 0; n < 240; n += 17) {
    const double* row = assigned.values.data<double>() + n * 6;
    CHECK(row[0] == double(n));
    CHECK(row[1] == double(answer.labels.data<int64_t>()[n]));
    for (int64_t k = 0; k < 3; ++k)
      CHECK(row[3 + k] == Approx(answer.probabilities.data<double>()[3 * n + k]).margin(1e-5));
  }

  // assign says the same of the same vectors, and eval cluster reads its file.
  done(mote_in(folder, "gmm assign x.npy --mixture m.safetensors --out b.csv"));
  CHECK((read_text(folder.path("a.csv")) == read_text(folder.path("b.csv"))));
  Json scores = done(mote_in(folder, "eval cluster --pred b.csv --truth y.npy --json")).json();
  CHECK(scores["acc"] == 1);
  CHECK(scores["nmi"].get<double>() == Approx(1));
  CHECK(scores["ari"] == 1);
  CHECK(scores["matching"].size() == 3);
}

TEST_CASE("gmm fit writes the same file for any number of threads", "[cli][gmm]") {
  ScratchFolder folder;
  io::save_npy(folder.path("x.npy"), separated(4, 400, 5, 2, 2));
  for (std::string options : {"--covariance tied", "--covariance diag --minibatch 300 --iterations 3"}) {
    std::vector<cluster::Mixture> mixtures;
    for (const char* threads : {"1", "3"}) {
      done(mote_in(folder, "gmm fit x.npy --k 4 --quiet --out m.safetensors " + options, threads));
      mixtures.push_back(cluster::load_mixture(folder.path("m.safetensors")));
    }
    CHECK_SAME(mixtures[0].means, mixtures[1].means);
    CHECK_SAME(mixtures[0].covariances, mixtures[1].covariances);
  }
}

TEST_CASE("components joined into groups are what assignments name, also those of gmm assign", "[cli][gmm]") {
  ScratchFolder folder;
  Tensor x = separated(6, 50, 2, 1, 4), y = empty({300}, DType::i64);
  for (int64_t n = 0; n < 300; ++n) {   // three clusters of two spots each, the first coordinate in other units
    int64_t spot = n / 50;
    for (int64_t d = 0; d < 2; ++d) x.data<double>()[2 * n + d] = 0.02 * x.data<double>()[2 * n + d];
    x.data<double>()[2 * n] += 1000 * double(spot / 2 * 10 + spot % 2);
    y.data<int64_t>()[n] = spot / 2;
  }
  io::save_npy(folder.path("x.npy"), x);
  io::save_npy(folder.path("y.npy"), y);
  done(mote_in(folder, "gmm fit x.npy --k 6 --join 3 --standardize --restarts 5 --out m.safetensors --assignments a.csv"));
  CHECK(done(mote_in(folder, "eval cluster --pred a.csv --truth y.npy --json")).json()["acc"] == 1);
  std::string header = read_text(folder.path("a.csv"));
  CHECK(header.substr(0, header.find('\n')) == "row,cluster,log_likelihood,p0,p1,p2");
  Json json = done(mote_in(folder, "gmm assign x.npy --mixture m.safetensors --out b.csv --json")).json();
  CHECK(read_text(folder.path("a.csv")) == read_text(folder.path("b.csv")));
  CHECK(json["counts"] == Json({100, 100, 100}));
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --k 2..4 --join 3 --out m.safetensors"), 2, "2 components cannot make 3 groups");
  cluster::save_mixture(folder.path("odd.safetensors"), cluster::load_mixture(folder.path("m.safetensors")),
                        {{"mixture.groups", "[0,1]"}});
  CHECK_EXIT(mote_in(folder, "gmm assign x.npy --mixture odd.safetensors --out c.csv"), 4, "groups do not fit 6 components");
}

TEST_CASE("a standardised fit is in the units of the file", "[cli][gmm]") {
  ScratchFolder folder;
  Tensor x = separated(2, 100, 3, 8, 3);
  for (int64_t i = 0; i < x.numel(); ++i) {
    double& value = x.data<double>()[i];
    value = i % 3 == 0 ? 1000 * value + 5 : i % 3 == 1 ? 0.001 * value : 4;  // the last feature is constant
  }
  io::save_npy(folder.path("x.npy"), x);
  Result fit =
      done(mote_in(folder, "gmm fit x.npy --k 2 --standardize --out m.safetensors --assignments a.csv --json"));
  CHECK(fit.err.find("1 of 3 features are constant") != std::string::npos);
  CHECK(fit.json()["constant_features"] == 1);
  cluster::Mixture mixture = cluster::load_mixture(folder.path("m.safetensors"));
  for (int64_t k = 0; k < 2; ++k) CHECK(mixture.means.data<double>()[3 * k + 2] == Approx(4).epsilon(1e-9));
  io::save_npy(folder.path("y.npy"), separated_labels(2, 100));
  CHECK(done(mote_in(folder, "eval cluster --pred a.csv --truth y.npy --json")).json()["acc"] == 1);
  done(mote_in(folder, "gmm assign x.npy --mixture m.safetensors --out b.csv"));
  CHECK((read_text(folder.path("a.csv")) == read_text(folder.path("b.csv"))));
}

TEST_CASE("gmm fit goes on from a mixture, whatever the units of the fit", "[cli][gmm]") {
  ScratchFolder folder;
  Tensor x = separated(3, 100, 2, 3, 5);
  io::save_npy(folder.path("x.npy"), x);
  const std::string off = " --floor 1e-12 --relative-floor 0 --tolerance 0 --dead-share 0 --quiet --json";
  done(mote_in(folder, "gmm fit x.npy --k 3 --covariance full --iterations 4 --out a.safetensors" + off));
  auto go_on = [&](const std::string& more) {
    return done(mote_in(folder, "gmm fit x.npy --start a.safetensors --iterations 4 --out b.safetensors" + more + off))
        .json();
  };
  Json plain = go_on(""), scaled = go_on(" --standardize");
  Json eight =
      done(mote_in(folder, "gmm fit x.npy --k 3 --covariance full --iterations 8 --out c.safetensors" + off)).json();
  CHECK(plain["covariance"] == "full");
  CHECK(plain["best"]["bic"] == eight["best"]["bic"]);
  CHECK(scaled["best"]["bic"].get<double>() == Approx(eight["best"]["bic"].get<double>()).epsilon(1e-10));
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --start a.safetensors --k 4 --out b.safetensors"), 2,
             "--k: --start decides it");
  io::save_npy(folder.path("wide.npy"), zeros({4, 5}));
  CHECK_EXIT(mote_in(folder, "gmm fit wide.npy --start a.safetensors --out b.safetensors"), 3, "of width 2");
}

TEST_CASE("vectors and labels are read from CSV with and without a header", "[cli][gmm]") {
  ScratchFolder folder;
  write_text(folder.path("plain.csv"), "1,2\n3,4.5\r\n-1e3,0\n\n");
  CHECK_SAME(apps::load_vectors(folder.path("plain.csv")), from({1, 2, 3, 4.5, -1000, 0}, {3, 2}, DType::f64));
  write_text(folder.path("named.csv"), "row,cluster,p\n0,7,0.5\n1,-2,0.25\n");
  CHECK_SAME(apps::load_labels(folder.path("named.csv")), from({7, -2}, {2}, DType::i64));
  CHECK((apps::load_table(folder.path("named.csv")).names == std::vector<std::string>{"row", "cluster", "p"}));
  write_text(folder.path("column.csv"), "3\n1\n");
  CHECK_SAME(apps::load_labels(folder.path("column.csv")), from({3, 1}, {2}, DType::i64));
  auto refused = [&](const std::string& text, const std::string& part) {
    write_text(folder.path("bad.csv"), text);
    CHECK_FAILS(Error::Kind::data, apps::load_vectors(folder.path("bad.csv")), "bad.csv", part);
  };
  refused("1,2\n3\n", "line 2 has 1 columns, the first line has 2");
  refused("1,2\n3,x\n", "line 2, column 2: 'x' is no finite number");
  refused("1,2\n3,nan\n", "line 2, column 2");
  refused("1,2\n\n3,4\n", "line 2 is blank");
  refused("a,b\n", "no line of numbers");
  refused("", "no line of numbers");
  write_text(folder.path("bad.csv"), "1,2\n3,4\n");
  CHECK_FAILS(Error::Kind::data, apps::load_labels(folder.path("bad.csv")), "has 2 columns");
  write_text(folder.path("bad.csv"), "1.5\n");
  CHECK_FAILS(Error::Kind::data, apps::load_labels(folder.path("bad.csv")), "1.5 is no whole number");
}

TEST_CASE("eval cluster prints the three scores and the mean it divides by", "[cli][gmm]") {
  ScratchFolder folder;
  write_text(folder.path("y.csv"), "0\n0\n0\n0\n1\n1\n1\n1\n2\n2\n");
  write_text(folder.path("p.csv"), "1\n1\n1\n0\n0\n0\n0\n0\n2\n2\n");
  Result text = done(mote_in(folder, "eval cluster --pred p.csv --truth y.csv"));
  CHECK(text.out.find("ACC 0.9000  NMI 0.7721 (arithmetic mean)  ARI 0.6298") != std::string::npos);
  CHECK(done(mote_in(folder, "eval cluster --pred p.csv --truth y.csv --nmi-mean min")).out.find("0.7815 (min mean)") !=
        std::string::npos);
  CHECK_EXIT(mote_in(folder, "eval cluster --pred p.csv"), 2, "--truth FILE are needed");
  CHECK_EXIT(mote_in(folder, "eval cluster --pred p.csv --truth y.csv --nmi-mean mode"), 2, "'mode' is not known");
  write_text(folder.path("short.csv"), "0\n1\n");
  CHECK_EXIT(mote_in(folder, "eval cluster --pred p.csv --truth short.csv"), 3, "p.csv has 10, short.csv has 2");
  CHECK_EXIT(mote_in(folder, "eval cluster --pred p.csv --truth none.csv"), 3, "none.csv");
}

TEST_CASE("gmm refuses bad input with the exit code of the cause", "[cli][gmm]") {
  ScratchFolder folder;
  Tensor x = separated(2, 10, 3, 5, 4);
  io::save_npy(folder.path("x.npy"), x);
  io::save_npy(folder.path("wide.npy"), zeros({4, 5}));
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --out m.safetensors --k 21"), 3,
             "21 components need as many vectors, x.npy has 20");
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --out m.safetensors --k 0"), 2, "1 component or more, got 0");
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --out m.safetensors --k 5..3"), 2, "the range 5..3 is empty");
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --out m.safetensors --k many"), 2, "got 'many'");
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --out m.safetensors --covariance round"), 2, "there are diag, tied, full");
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --out m.safetensors --floor 0"), 2, "--floor: must be above 0");
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --out m.safetensors --restarts 0"), 2, "--restarts: must be 1 or more");
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --out m.safetensors --curve bic.png"), 2, "ends in .svg");
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy"), 2, "--out FILE.safetensors is needed");
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --out m.safetensors --precision bf16"), 2, "computed in f64");
  CHECK_EXIT(mote_in(folder, "gmm fit none.npy --out m.safetensors"), 3, "none.npy");
  CHECK(!std::filesystem::exists(folder.path("m.safetensors")));

  done(mote_in(folder, "gmm fit x.npy --k 2 --quiet --out m.safetensors"));
  CHECK_EXIT(mote_in(folder, "gmm assign wide.npy --mixture m.safetensors --out a.csv"), 3,
             "width 5, the mixture in m.safetensors is of width 3");
  CHECK_EXIT(mote_in(folder, "gmm assign x.npy --mixture x.npy --out a.csv"), 4, "x.npy");
  CHECK_EXIT(mote_in(folder, "gmm assign x.npy --out a.csv"), 2, "--mixture FILE is needed");
  x.data<double>()[31] = NAN;
  io::save_npy(folder.path("x.npy"), x);
  CHECK_EXIT(mote_in(folder, "gmm fit x.npy --out m.safetensors"), 3, "row 10, column 1 is nan");
}

TEST_CASE("duplicates and dead components are repaired or stated, not fatal", "[cli][gmm]") {
  ScratchFolder folder;
  write_text(folder.path("x.csv"), "1,5\n1,5\n1,5\n2,5\n2,5\n2,5\n");
  Result fit = done(mote_in(folder, "gmm fit x.csv --k 4 --out m.safetensors"));
  CHECK(fit.out.find("components at the variance floor: 4") != std::string::npos);
  CHECK(fit.err.find("1 of 2 features are constant") != std::string::npos);
}
