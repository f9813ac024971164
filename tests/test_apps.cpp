// What the subcommands are made of, below the command line: instruction sets, plots, configuration, text, npy, checkpoints.
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/checkpoint.h"
#include "apps/common.h"
#include "apps/cpu_check.h"
#include "apps/svg.h"
#include "apps/train_config.h"
#include "apps/trainer.h"
#include "autograd/ops.h"
#include "tensor/io/file.h"
#include "tensor/io/npy.h"
#include "tests/support.h"

using namespace mote;
using namespace mote::apps;

/// The expression throws an Error whose message holds `words`.
#define CHECK_REFUSED(expression, words)                             \
  do {                                                               \
    std::string refused = "nothing was thrown";                      \
    try {                                                            \
      (void)(expression);                                            \
    } catch (const Error& error) {                                   \
      refused = error.what();                                        \
    }                                                                \
    INFO(refused);                                                   \
    CHECK(refused.find(words) != std::string::npos);                 \
  } while (false)

TEST_CASE("instruction sets that the machine lacks are named", "[apps]") {
  char names[256];
  unsigned built = 0b1000'0000'0001, machine = 0b0000'0000'0001;   // sse3 and avx512bw
  CHECK(mote_isa_missing(built, machine, names, sizeof names) == 1);
  CHECK(std::string(names) == mote_isa_names[11]);
  CHECK(mote_isa_missing(built, built, names, sizeof names) == 0);
  CHECK(std::string(names).empty());
  CHECK(mote_isa_missing(built, 0, names, sizeof names) == 2);
  CHECK(std::string(names) == std::string(mote_isa_names[0]) + " " + mote_isa_names[11]);
  char small[4];
  CHECK(mote_isa_missing(built, 0, small, sizeof small) == 2);
  CHECK(std::string(small) == std::string(mote_isa_names[0]).substr(0, 3));   // cut, ended, not overrun
  CHECK(mote_isa_missing(mote_isa_built, mote_isa_machine(), names, sizeof names) == 0);   // or this test would not run
}

TEST_CASE("a slip of the finger finds the word that was meant", "[apps]") {
  CHECK(did_you_mean("stesp", {"batch", "steps", "size"}) == " (did you mean 'steps'?)");
  CHECK(did_you_mean("zzzzzz", {"batch", "steps", "size"}).empty());
}

TEST_CASE("numbers read well in messages", "[apps]") {
  CHECK(count_text(35746307) == "35,746,307");
  CHECK(count_text(-1000) == "-1,000");
  CHECK(count_text(999) == "999");
  CHECK(bytes_text(1536) == "1.5 KiB");
  CHECK(bytes_text(12) == "12 B");
  CHECK(seconds_text(4.24) == "4.2 s");
  CHECK(seconds_text(200) == "3m 20s");
  CHECK(seconds_text(59.97) == "1m 00s");
  CHECK(seconds_text(7500) == "2h 05m");
  CHECK(number_text(0.1) == "0.1");
  CHECK(std::stod(number_text(1.0 / 3)) == 1.0 / 3);
}

TEST_CASE("lists of numbers are read strictly", "[apps]") {
  CHECK(int_list("--mult", "1,2,2") == std::vector<int64_t>{1, 2, 2});
  CHECK(int_list("--attention", "").empty());
  for (const char* wrong : {"1,,2", "1,2,", "a", "1 2", "1.5"})
    CHECK_REFUSED(int_list("--mult", wrong), "--mult");
}

TEST_CASE("ticks are round and inside the axis", "[apps]") {
  CHECK(nice_ticks(0, 1000, 5) == std::vector<double>{0, 200, 400, 600, 800, 1000});
  CHECK(nice_ticks(0.031, 0.052, 5).front() == Approx(0.035));
  for (double tick : nice_ticks(-3.3, 17.1, 6)) CHECK((tick >= -3.3 && tick <= 17.1));
}

TEST_CASE("a plot survives gaps, one point and no point, and escapes its words", "[apps]") {
  double nan = std::numeric_limits<double>::quiet_NaN();
  std::string gap = svg_plot({"a<b", "step", {{"", {1, 2, 3, 4, 5}, {1, 2, nan, 4, 5}}}, false});
  CHECK(gap.find("a&lt;b") != std::string::npos);
  CHECK(gap.find("a<b") == std::string::npos);
  CHECK(gap.find("nan") == std::string::npos);
  size_t path = gap.find("<path");
  REQUIRE(path != std::string::npos);
  std::string drawn = gap.substr(path);
  CHECK(std::count(drawn.begin(), drawn.end(), 'M') == 2);   // the line is broken at the gap
  CHECK(svg_plot({"one", "step", {{"", {1}, {2}}}, true}).find("inf") == std::string::npos);
  CHECK(svg_plot({"none", "step", {{"", {1, 2}, {0, -1}}}, true}).find("nothing to plot") != std::string::npos);
}

TEST_CASE("a training configuration comes back from JSON as it was", "[apps]") {
  TrainConfig config;
  config.data = "folder:/a \"b\"";
  config.lr = 1.0 / 3;
  config.seed = std::numeric_limits<uint64_t>::max();
  config.flip = true;
  std::string json = to_json(config);
  CHECK(to_json(train_config_from_json(json)) == json);
  nlohmann::json changed = nlohmann::json::parse(json);
  changed["steps_"] = 1;
  CHECK_REFUSED(train_config_from_json(changed.dump()), "steps_");
  changed.erase("steps_");
  changed.erase("precision");   // files from before these two flags
  changed.erase("groups");
  CHECK(to_json(train_config_from_json(changed.dump())) == json);
  changed.erase("batch");
  CHECK_REFUSED(train_config_from_json(changed.dump()), "batch");
}

TEST_CASE("a custom network has the groups that were asked for", "[apps]") {
  TrainConfig config;
  config.unet = "custom";
  CHECK(unet_config(config, 28, 1, 0).norm_groups == 0);
  config.groups = 8;
  CHECK(unet_config(config, 28, 1, 0).norm_groups == 8);
  config.groups = 64;
  CHECK_REFUSED(unet_config(config, 28, 1, 0), "a width of 32 channels does not divide into 64 groups");
}

TEST_CASE("resuming takes what may change and refuses the rest", "[apps]") {
  TrainConfig saved, asked;
  saved.steps = 100;
  saved.lr = 1e-3;
  asked.steps = 200;
  asked.save_every = 7;
  TrainConfig merged = merge_for_resume(saved, asked, {"steps", "save-every"});
  CHECK(merged.steps == 200);
  CHECK(merged.save_every == 7);
  CHECK(merged.lr == 1e-3);                                            // was not given
  CHECK(merge_for_resume(saved, asked, {}).steps == 100);
  CHECK_REFUSED(merge_for_resume(saved, asked, {"lr"}), "--lr is 0.001 in this run, 2e-04 was given");
  asked.steps = 50;
  CHECK_REFUSED(merge_for_resume(saved, asked, {"steps"}), "--steps is 100");
  asked.steps = 200;
  saved.lr_schedule = "cosine";
  CHECK_REFUSED(merge_for_resume(saved, asked, {"steps"}), "cosine");
}

TEST_CASE("what a step draws depends on seed and step only", "[apps]") {
  Shape shape{4, 8, 8, 3};
  StepDraws a = draw_step(7, 3, shape, 1000, 0.5), b = draw_step(7, 3, shape, 1000, 0.5);
  CHECK_SAME(a.t, b.t);
  CHECK_SAME(a.noise, b.noise);
  CHECK(a.hidden == b.hidden);
  CHECK(test::difference(a.noise, draw_step(7, 4, shape, 1000, 0.5).noise, 0, 0) != "");
  CHECK(test::difference(a.noise, draw_step(8, 3, shape, 1000, 0.5).noise, 0, 0) != "");
  CHECK(draw_step(7, 3, shape, 1000, 0).hidden.empty());
  for (double t : draw_step(1, 1, {1000, 1, 1, 1}, 5, 0).t.to_vector()) CHECK((t >= 0 && t < 5));
}

TEST_CASE("a watch sees the output of ops, recorded or not", "[apps]") {
  std::vector<std::string> seen;
  Tensor x = full({2}, 2.0).requires_grad();
  {
    Watch watch([&](const char* op, const Tensor& y) { seen.push_back(concat_text(op, " ", y.to_vector()[0])); });
    affine(x, 3, 0);
    NoGrad no_grad;
    square(x);
  }
  affine(x, 3, 0);   // nobody looks any more
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].find("6") != std::string::npos);
  CHECK(seen[1].find("4") != std::string::npos);
}

TEST_CASE("npy files have the header that NumPy asks for", "[apps]") {
  test::ScratchFolder folder;
  io::save_npy(folder.path("a.npy"), from({1, 2, 3, 4, 5, 6}, {2, 3}));
  io::Bytes bytes = io::read_file(folder.path("a.npy"), 1 << 20);
  std::string text(bytes.begin(), bytes.end());
  CHECK(text.substr(0, 8) == std::string("\x93NUMPY\x01\x00", 8));
  size_t header = bytes[8] + 256 * bytes[9];
  CHECK((10 + header) % 64 == 0);
  CHECK(text[10 + header - 1] == '\n');
  CHECK(text.find("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, ), }") == 10);
  REQUIRE(bytes.size() == 10 + header + 24);
  float last = 0;
  std::memcpy(&last, bytes.data() + bytes.size() - 4, 4);
  CHECK(last == 6);
  CHECK_THROWS_AS(io::save_npy(folder.path("b.npy"), zeros({2}, DType::bf16)), Error);
}

namespace {

Checkpoint small_checkpoint() {
  Checkpoint c;
  c.step = 3;
  c.images = 12;
  c.seed = 5;
  c.random = {9, 1234567890123456789u};
  c.unet = nn::UNetConfig::preset("tiny");
  c.unet.fit(8, 1);
  c.data = "synthetic:blobs";
  c.class_names = {"a", "b \"quoted\""};
  c.model = nn::UNet(c.unet, 1).parameters();
  for (auto& [name, tensor] : c.model) tensor = tensor.detach();
  c.ema = c.model;
  return c;
}

}  // namespace

TEST_CASE("a checkpoint comes back as it was saved", "[apps]") {
  test::ScratchFolder folder;
  Checkpoint saved = small_checkpoint();
  save_checkpoint(folder.path("c.safetensors"), saved);
  Checkpoint loaded = load_checkpoint(folder.path("c.safetensors"));
  CHECK(loaded.step == 3);
  CHECK(loaded.images == 12);
  CHECK(loaded.seed == 5);
  CHECK(loaded.random == saved.random);
  CHECK(loaded.unet == saved.unet);
  CHECK(loaded.class_names == saved.class_names);
  CHECK(loaded.hash == saved.hash);
  CHECK(loaded.hash.size() == 16);
  REQUIRE(loaded.model.size() == saved.model.size());
  for (size_t i = 0; i < saved.model.size(); ++i) {
    CHECK(loaded.model[i].first == saved.model[i].first);
    CHECK_SAME(loaded.model[i].second, saved.model[i].second);
  }
  CHECK(loaded.m.empty());
}

TEST_CASE("weights that are not finite are neither saved nor loaded", "[apps]") {
  test::ScratchFolder folder;
  Checkpoint c = small_checkpoint();
  auto& [name, tensor] = c.ema[4];
  tensor = tensor.clone();
  tensor.data<float>()[1] = std::numeric_limits<float>::quiet_NaN();
  CHECK_REFUSED(save_checkpoint(folder.path("c.safetensors"), c), name);
  CHECK(!std::filesystem::exists(folder.path("c.safetensors")));
}

TEST_CASE("the weights of another UNet are refused by name", "[apps]") {
  test::ScratchFolder folder;
  Checkpoint c = small_checkpoint();
  c.unet.multipliers = {1, 2, 2};
  save_checkpoint(folder.path("c.safetensors"), c);
  CHECK_REFUSED(load_checkpoint(folder.path("c.safetensors")), "another UNet");
  c = small_checkpoint();
  c.unet.base = 32;
  save_checkpoint(folder.path("d.safetensors"), c);
  CHECK_REFUSED(load_checkpoint(folder.path("d.safetensors")), "but the UNet of the metadata has");
}

TEST_CASE("saving in a run keeps the checkpoint before", "[apps]") {
  test::ScratchFolder folder;
  Checkpoint c = small_checkpoint();
  save_in_run(folder.path(), c);
  CHECK(!std::filesystem::exists(folder.path(kPreviousFile)));
  c.step = 4;
  save_in_run(folder.path(), c);
  CHECK(load_checkpoint(folder.path(kPreviousFile)).step == 3);
  CHECK(load_checkpoint(folder.path(kCheckpointFile)).step == 4);
  c.step = 5;
  save_in_run(folder.path(), c, false);   // the newest is known to be damaged: it must not replace the previous one
  CHECK(load_checkpoint(folder.path(kPreviousFile)).step == 3);
  CHECK(load_checkpoint(folder.path(kCheckpointFile)).step == 5);
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) files += entry.is_regular_file();
  CHECK(files == 2);
}
