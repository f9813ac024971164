// What `mote restore` is made of: squares and their damage, checkpoints, restoring pictures of any size.
#include <set>

#include "apps/cmd_restore.h"
#include "apps/restore_data.h"
#include "tensor/io/image.h"
#include "tensor/io/safetensors.h"
#include "tests/diffusion_support.h"

using namespace mote;
using namespace mote::apps;
using namespace mote::test;

namespace {

/// Pictures whose pixels are all different numbers, so that a square tells where it was cut.
PictureSet numbered_pictures() {
  PictureSet set{"numbered", {}, {"wide", "high", "square"}, "0"};
  for (auto [H, W] : {std::pair{8, 20}, {15, 9}, {8, 8}}) {
    Tensor picture = empty({H, W, 1}, DType::u8);
    for (int64_t i = 0; i < H * W; ++i) picture.data<uint8_t>()[i] = uint8_t(i);
    set.images.push_back(picture);
  }
  return set;
}

/// Whether the square [S, S, 1] lies in one of the pictures, mirrored or not.
std::string place_of(const PictureSet& set, const Tensor& square) {
  int64_t S = square.size(0);
  for (int64_t n = 0; n < set.count(); ++n) {
    Tensor picture = to_unit(set.images[size_t(n)]);
    for (int64_t top = 0; top + S <= picture.size(0); ++top)
      for (int64_t left = 0; left + S <= picture.size(1); ++left)
        for (bool mirrored : {false, true}) {
          bool same = true;
          for (int64_t i = 0; i < S * S && same; ++i) {
            int64_t x = mirrored ? S - 1 - i % S : i % S;
            same = square.data<float>()[i] == picture.data<float>()[(top + i / S) * picture.size(1) + left + x];
          }
          if (same) return set.names[size_t(n)] + (mirrored ? " mirrored" : "");
        }
  }
  return "nowhere";
}

RestoreConfig tiny_config() {
  RestoreConfig config;
  config.net = "tiny";
  config.T = 20;
  config.schedule = "cosine";
  return config;
}

/// A random denoiser for squares of 8 pixels, and a random end-to-end network beside it.
struct TinyNets {
  resensemble::ModelConfig config;
  nn::Denoiser denoiser;
  nn::E2ENet e2e;
  explicit TinyNets(const std::string& method = "resensemble", bool with_prior = false)
      : config([&] {
          RestoreConfig c = tiny_config();
          c.method = method;
          c.with_prior = with_prior;
          c.e2e_steps = with_prior ? 1 : 0;
          return model_config(c, 8, 1);
        }()),
        denoiser(config.net, 3), e2e(e2e_net(), 4) {
    // Those that start at zero would leave nothing to see.
    for (const nn::NamedTensors& all : {denoiser.parameters(), e2e.parameters()})
      for (const auto& [name, value] : all) {
        Generator draw = Generator{7}.fork(uint64_t(value.numel()));
        Tensor(value).copy_(affine(normal(value.shape(), DType::f32, draw), 0.1, 0));
      }
    denoiser.train(false);
    e2e.train(false);
  }
  static nn::E2ENetConfig e2e_net() {
    nn::E2ENetConfig net = nn::E2ENetConfig::preset("e-28");
    net.widths = {4, 8};
    net.residual = true;
    return net;
  }
  Restorer restorer(bool with_e2e = false) { return {config, &denoiser, with_e2e ? &e2e : nullptr, DType::f32, {}}; }
};

RestoreDraw tiny_draw(int64_t samples = 1) {
  return {.sampler = {.name = "ddim", .steps = 3}, .samples = samples, .seed = 5, .batch = 4};
}

Tensor random_pictures(const Shape& shape, uint64_t seed = 1) {
  return affine(uniform(shape, DType::f32, Generator{seed}), 2, -1);
}

}  // namespace

// ---- Data ----------------------------------------------------------------------------------------------------------

TEST_CASE("squares are cut inside their pictures, anywhere, in an order that needs no replay", "[restore]") {
  PictureSet set = numbered_pictures();
  resensemble::Degradation noise{.side = 6};
  RestoreBatches batches(set, 6, 8, 3, true, noise, 0);
  std::set<std::string> places;
  std::vector<RestoreBatch> made;
  for (int i = 0; i < 6; ++i) {
    made.push_back(batches.next());
    CHECK(difference(made.back().clean, made.back().damaged, 1e-3, 0) != "");
    for (int64_t n = 0; n < 8; ++n) places.insert(place_of(set, made.back().clean.rows(n, n + 1).view({6, 6, 1})));
  }
  CHECK(places == std::set<std::string>{"wide", "high", "square", "wide mirrored", "high mirrored", "square mirrored"});
  RestoreBatches later(set, 6, 8, 3, true, noise, 4);
  RestoreBatch again = later.next();
  CHECK_SAME(again.clean, made[4].clean);
  CHECK_SAME(again.damaged, made[4].damaged);
  RestoreBatch other = RestoreBatches(set, 6, 8, 4, true, noise, 4).next();
  CHECK(difference(other.clean, made[4].clean, 0, 0) != "");
}

TEST_CASE("every picture is damaged anew each time it is seen", "[restore]") {
  PictureSet one{"one", {full({6, 6, 1}, 100, DType::u8)}, {"one"}, "0"};
  RestoreBatches batches(one, 6, 2, 1, false, {.side = 6}, 0);
  RestoreBatch first = batches.next(), second = batches.next();
  CHECK_SAME(first.clean, second.clean);
  CHECK(difference(first.damaged.rows(0, 1), first.damaged.rows(1, 2), 1e-3, 0) != "");
  CHECK(difference(first.damaged, second.damaged, 1e-3, 0) != "");
}

TEST_CASE("pictures that no square can be cut from are named", "[restore]") {
  PictureSet set = numbered_pictures();
  CHECK(square_side(set, 8) == 8);
  Caught large = caught([&] { square_side(set, 9); }), mixed = caught([&] { square_side(set, 0); });
  CHECK(large.kind == Error::Kind::data);
  CHECK(large.says("wide is 8 x 20"));
  CHECK(mixed.kind == Error::Kind::usage);
  CHECK(mixed.says("give --size N"));
  CHECK_SAME(middle_square(set.images[2], 8), to_unit(set.images[2]));
  CHECK(place_of(set, middle_square(set.images[0], 6)) == "wide");
}

TEST_CASE("pictures of a folder keep their sizes and names; mixed channels are refused", "[restore]") {
  ScratchFolder folder;
  io::save_png(folder.path("b.png"), full({4, 6, 1}, 9, DType::u8));
  io::save_png(folder.path("a.png"), full({5, 3, 1}, 7, DType::u8));
  PictureSet set = load_pictures({.spec = "folder:" + folder.path()});
  CHECK(set.names == std::vector<std::string>{"a", "b"});
  CHECK(set.images[0].shape() == Shape{5, 3, 1});
  CHECK(set.images[1].shape() == Shape{4, 6, 1});
  std::string before = set.hash;
  io::save_png(folder.path("c.png"), full({4, 4, 3}, 9, DType::u8));
  CHECK(load_pictures({.spec = "folder:" + folder.path(), .channels = 1}).hash != before);
  Caught mixed = caught([&] { load_pictures({.spec = "folder:" + folder.path()}); });
  CHECK(mixed.kind == Error::Kind::data);
  CHECK(mixed.says("c.png"));
  CHECK(mixed.says("--channels"));
  CHECK(load_pictures({.spec = "synthetic:shapes", .size = 5, .limit = 3}).images[2].shape() == Shape{12, 12, 1});
}

// ---- Restoring -----------------------------------------------------------------------------------------------------

TEST_CASE("a picture of one tile is restored as the model samples it", "[restore]") {
  for (const char* method : {"resensemble", "plain", "resfusion"}) {
    INFO(method);
    TinyNets nets(method);
    Tensor damaged = random_pictures({3, 8, 8, 1});
    RestoreDraw draw = tiny_draw(2);
    Tensor drawn = draw_restored(nets.restorer(), damaged, damaged, draw);
    resensemble::EnsembleOptions options{.sampler = draw.sampler, .samples = 2, .seed = 5};
    Tensor expected =
        resensemble::sample_model(nets.denoiser, nets.config, nets.config.levels(), options, damaged, damaged);
    CHECK_CLOSE(drawn, expected, 1e-5, 1e-5);
    draw.blend_steps = false;
    CHECK_CLOSE(draw_restored(nets.restorer(), damaged, damaged, draw), expected, 1e-5, 1e-5);
  }
}

TEST_CASE("sample k of picture i depends on neither K, batch nor the pictures beside it", "[restore]") {
  TinyNets nets("resensemble", true);
  Tensor damaged = random_pictures({3, 11, 9, 1}), prior = prior_of(nets.restorer(true), damaged, tiny_draw());
  CHECK(difference(prior, damaged, 1e-4, 0) != "");
  for (bool blend_steps : {true, false})
    for (const char* sampler : {"ddim", "ddpm"}) {
      INFO(sampler << (blend_steps ? ", blended at every step" : ", blended at the end"));
      RestoreDraw draw = tiny_draw(3);
      draw.sampler.name = sampler;
      draw.blend_steps = blend_steps;
      Tensor all = draw_restored(nets.restorer(true), damaged, prior, draw);
      CHECK(all.shape() == Shape{3, 3, 11, 9, 1});
      CHECK(difference(all.rows(0, 1), all.rows(1, 2), 1e-3, 0) != "");
      draw.samples = 2;
      draw.batch = 1;
      draw.first = 2;
      Tensor one = draw_restored(nets.restorer(true), damaged.rows(2, 3), prior.rows(2, 3), draw);
      Tensor expected = empty({2, 1, 11, 9, 1});
      kernel::get_box(expected, all, {0, 2, 0, 0, 0});
      CHECK_CLOSE(one, expected, 1e-5, 1e-5);   // other batches, other kernels
    }
}

TEST_CASE("pictures of any size are restored, smaller than a tile and a line of one pixel too", "[restore]") {
  TinyNets nets;
  for (const Shape& shape : {Shape{1, 3, 5, 1}, Shape{1, 1, 30, 1}, Shape{2, 8, 17, 1}, Shape{1, 19, 8, 1}})
    for (bool blend_steps : {true, false}) {
      INFO(shape);
      Tensor damaged = random_pictures(shape);
      RestoreDraw draw = tiny_draw();
      draw.blend_steps = blend_steps;
      Tensor xbar = draw_restored(nets.restorer(), damaged, damaged, draw);
      CHECK(xbar.shape() == shape.inserted(0, 1));
      Tensor y = resensemble::estimates(nets.config.map(), xbar, damaged).mean;
      for (double value : y.to_vector()) CHECK(std::abs(value) <= 1);
      CHECK(difference(y, damaged, 1e-3, 0) != "");
    }
}

TEST_CASE("tiles that overlap too much, and samplers that cannot, are refused before anything is drawn", "[restore]") {
  TinyNets nets;
  RestoreCheckpoint checkpoint;
  checkpoint.config = nets.config;
  RestoreFlags flags{.steps = 3, .overlap = 5};
  CHECK_THROWS_WITH(flags.draw(checkpoint, 1, 0), Catch::Contains("--overlap"));
  flags = {.blend = "never", .steps = 3};
  CHECK_THROWS_WITH(flags.draw(checkpoint, 1, 0), Catch::Contains("--blend"));
  flags = {.steps = 21};
  CHECK_THROWS_WITH(flags.draw(checkpoint, 1, 0), Catch::Contains("21 sampling steps"));
  flags = {.steps = 3, .tiles = 0};
  CHECK_THROWS_WITH(flags.draw(checkpoint, 1, 0), Catch::Contains("--tiles"));
}

// ---- Configuration and checkpoints ---------------------------------------------------------------------------------

TEST_CASE("a restore configuration says what is wrong with it", "[restore]") {
  struct Wrong {
    std::function<void(RestoreConfig&)> change;
    std::string words;
  };
  for (const Wrong& wrong : std::vector<Wrong>{
           {[](RestoreConfig& c) { c.task = "sharpen"; }, "--task"},
           {[](RestoreConfig& c) { c.sigma = "much"; }, "--sigma"},
           {[](RestoreConfig& c) { c.sigma = "50:15"; }, "--sigma"},
           {[](RestoreConfig& c) { c.poisson = -2; }, "--poisson"},
           {[](RestoreConfig& c) { c.screen = true; }, "--screen"},
           {[](RestoreConfig& c) { c.method = "magic"; }, "resensemble, plain and resfusion"},
           {[](RestoreConfig& c) { c.with_prior = true; }, "--with-prior"},
           {[](RestoreConfig& c) { c.steps = 0; }, "--steps"},
           {[](RestoreConfig& c) { c.e2e_loss = "l2"; }, "--e2e-loss"},
           {[](RestoreConfig& c) { c.e2e_lr = 0; }, "--e2e-lr"},
           {[](RestoreConfig& c) { c.method = "resfusion", c.prediction = "v"; }, "--prediction"},
       }) {
    RestoreConfig config = tiny_config();
    wrong.change(config);
    Caught error = caught([&] { validate(config); });
    INFO(error.message);
    CHECK(error.kind == Error::Kind::usage);
    CHECK(error.says(wrong.words));
  }
  validate(tiny_config());
  CHECK_THROWS_WITH(model_config(tiny_config(), 9, 1), Catch::Contains("give --size 8"));
  RestoreConfig config = tiny_config();
  config.net = "huge";
  CHECK_THROWS_WITH(model_config(config, 8, 1), Catch::Contains("d28-cpu"));
  config.e2e_steps = 5;
  CHECK_THROWS_WITH(e2e_config(config, 30, 1), Catch::Contains("--e2e-net e-28"));
  CHECK(restore_config_from_json(to_json(config)).e2e_steps == 5);
}

TEST_CASE("a restore checkpoint comes back bit for bit, and says what is wrong with a damaged one", "[restore]") {
  ScratchFolder folder;
  TinyNets nets("resensemble", true);
  RestoreCheckpoint saved;
  saved.step = 7;
  saved.e2e_steps = 3;
  saved.config = nets.config;
  saved.e2e_config = nets.e2e.config();
  RestoreConfig train = tiny_config();
  saved.train = to_json(train);
  saved.e2e = nets.e2e.parameters();
  saved.model = saved.m = saved.v = nets.denoiser.parameters();
  std::string path = folder.path("checkpoint.safetensors");
  save_restore_checkpoint(path, saved);
  RestoreCheckpoint loaded = load_restore_checkpoint(path);
  CHECK(loaded.hash == saved.hash);
  CHECK(loaded.step == 7);
  CHECK(loaded.config == saved.config);
  for (size_t i = 0; i < saved.model.size(); ++i) CHECK_SAME(loaded.model[i].second, saved.model[i].second);
  LoadedRestorer run = load_restorer(path, "ema", {});
  CHECK(run.nets.denoiser != nullptr);
  CHECK(run.nets.e2e != nullptr);

  RestoreCheckpoint at_start = loaded;
  at_start.step = 3;   // the denoiser is as it was drawn
  save_restore_checkpoint(path, at_start);
  CHECK(load_restorer(path, "ema", {}).nets.denoiser == nullptr);
  CHECK_THROWS_WITH(load_restorer(path, "best", {}), Catch::Contains("ema and model"));

  RestoreCheckpoint other = loaded;
  other.model.pop_back();
  save_restore_checkpoint(path, other);
  CHECK_THROWS_WITH(load_restore_checkpoint(path), Catch::Contains("it is missing"));
  other = loaded;
  other.e2e.clear();
  save_restore_checkpoint(path, other);
  CHECK_THROWS_WITH(load_restore_checkpoint(path), Catch::Contains("e2e.*"));
  other = loaded;
  other.model[0].second = full(other.model[0].second.shape(), NAN);
  CHECK_THROWS_WITH(save_restore_checkpoint(path, other), Catch::Contains("not finite"));
  io::save_safetensors(path, {{"x", zeros({2})}}, {{"format", "mote-checkpoint"}});
  CHECK_THROWS_WITH(load_restore_checkpoint(path), Catch::Contains("no checkpoint of mote restore train"));
}
