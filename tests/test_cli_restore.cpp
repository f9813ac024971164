// `mote restore` and `mote eval restore` as a user meets them: runs that resume bit for bit, pictures of any size,
// tables, exit codes and messages. Runs the binary on synthetic shapes cut to 8 x 8 pixels, tiny networks, one thread.
#include <cmath>

#include "diffusion/metrics/restoration.h"
#include "tensor/io/image.h"
#include "tests/run_mote.h"

using namespace mote;
using namespace mote::test;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

Result restore_in(const std::string& folder, const Args& args) {
  return Process(folder, Args{"restore"} + args).wait();
}

/// Three steps of the end-to-end network, then four of the diffusion.
Args train_args(const std::string& out, const Args& more = {}, int steps = 4) {
  return words("train --task denoise --data synthetic:shapes --size 8 --limit 24 --net tiny --e2e-net e-28 "
               "--e2e-steps 3 --T 40 --schedule scaled --batch 4 --warmup 2 --ema 0.8 --seed 3 --threads 1 --quiet "
               "--log-every 1 --sample-count 2 --sample-steps 2 --flip --out " + out) +
         Args{"--steps", std::to_string(steps)} + more;
}

/// One finished run that tests only read, with the prior of an end-to-end network.
const std::string& trained() {
  static ScratchFolder folder;
  static std::string run = [] {
    Result result = restore_in(folder.path(), train_args("run"));
    if (result.code != 0) FAIL("the run that other tests read could not be made: " + told(result));
    return folder.path("run");
  }();
  return run;
}

std::string difference_of(const std::string& a, const std::string& b) {
  return checkpoint_difference(a + "/checkpoint.safetensors", b + "/checkpoint.safetensors",
                               {"step", "random_seed", "random_offset", "data_hash", "config", "e2e_config"});
}

/// A smooth picture u8 [H, W, C], no two alike.
Tensor picture(int64_t H, int64_t W, int64_t C, double shift) {
  Tensor x = empty({H, W, C}, DType::u8);
  for (int64_t i = 0; i < x.numel(); ++i) {
    double row = double(i / C / W), column = double(i / C % W), channel = double(i % C);
    double wave = std::sin(0.5 * row + channel + shift) * std::cos(0.4 * column);
    x.data<uint8_t>()[i] = uint8_t(std::lround(128 + 90 * wave));
  }
  return x;
}

double number(const Json& json, const char* part, const char* key) { return json.at(part).at(key).get<double>(); }

}  // namespace

// ---- Usage ---------------------------------------------------------------------------------------------------------

TEST_CASE("every subcommand of mote restore explains itself", "[restore-cli]") {
  ScratchFolder folder;
  for (const char* command : {"restore train", "restore apply", "restore eval", "eval restore"}) {
    Result help = done(mote_in(folder, words(command) + Args{"--help"}));
    CHECK(contains(help.out, "Example"));
    CHECK(contains(help.out, "--device"));
  }
}

TEST_CASE("a wrong mote restore command line ends with exit code 2 and says what would be right", "[restore-cli]") {
  ScratchFolder folder;
  io::save_png(folder.path("p.png"), picture(9, 9, 1, 0));
  struct Wrong {
    Args args;
    std::string words;
  };
  const std::string &run = trained(), here = folder.path("p.png");
  for (const Wrong& wrong : std::vector<Wrong>{
           {{"tarin"}, "did you mean 'train'"},
           {{"train", "--out", "r", "--task", "blur"}, "denoise, deblur, inpaint, sr2, sr4, haze, rain"},
           {{"train", "--out", "r", "--sigma", "a"}, "such as 25"},
           {{"train", "--out", "r", "--sigma", "9:3"}, "--sigma"},
           {{"train", "--out", "r", "--with-prior"}, "--with-prior: only with --e2e-steps"},
           {{"train", "--out", "r", "--method", "x"}, "resensemble, plain and resfusion"},
           {{"train", "--out", "r", "--T", "20", "--schedule", "scaled", "--data", "synthetic:shapes"}, "25"},
           {{"train", "--out", "r", "--data", "synthetic:shapes", "--size", "10", "--net", "d28-cpu"}, "--size 8"},
           {{"train", "--out", "r", "--steps", "0"}, "--steps"},
           {{"train", "--out", "r", "--resume", "--overwrite"}, "one of them"},
           {{"train", "--out", run, "--resume", "--task", "rain"}, "--task is denoise in this run, rain was given"},
           {{"apply", "--in", here, "--out", "o"}, "--run DIR or --ckpt FILE"},
           {{"apply", "--run", run, "--out", "o"}, "--in"},
           {{"apply", "--run", run, "--in", here}, "--out"},
           {{"apply", "--run", run, "--in", here, "--out", folder.path()}, "would overwrite them"},
           {{"apply", "--run", run, "--in", here, "--out", "o", "--samples", "0"}, "--samples"},
           {{"apply", "--run", run, "--in", here, "--out", "o", "--sigma", "9"}, "only with --degrade"},
           {{"apply", "--run", run, "--in", here, "--out", "o", "--sampler", "euler"}, "ddpm, ddim"},
           {{"apply", "--run", run, "--in", here, "--out", "o", "--steps", "41"}, "41 sampling steps"},
           {{"apply", "--run", run, "--in", here, "--out", "o", "--steps", "2", "--overlap", "5"}, "0 to 4"},
           {{"apply", "--run", run, "--in", here, "--out", "o", "--steps", "2", "--blend", "x"}, "steps and final"},
           {{"apply", "--run", run, "--in", here, "--out", "o", "--weights", "best"}, "ema and model"},
           {{"eval"}, "no run given"},
           {{"eval", run, "--samples", "0"}, "--samples"},
           {{"eval", run, "--steps", "2", "--split", "val"}, "no val part"},
       }) {
    INFO(wrong.args[0] + " ... " + wrong.args.back());
    CHECK_EXIT(restore_in(folder.path(), wrong.args), 2, wrong.words);
    CHECK_FALSE(fs::exists(folder.path("r")));
    CHECK_FALSE(fs::exists(folder.path("o")));
  }
}

TEST_CASE("pictures that cannot be restored end with exit code 3, files that are no run with 4", "[restore-cli]") {
  ScratchFolder folder;
  const std::string& run = trained();
  fs::create_directories(folder.path("none"));
  write_text(folder.path("broken.png"), "no picture");
  Args apply = {"apply", "--run", run, "--steps", "2", "--out", "o", "--in"};
  CHECK_EXIT(restore_in(folder.path(), apply + Args{"none"}), 3, "has no pictures");
  CHECK_EXIT(restore_in(folder.path(), apply + Args{"missing.png"}), 3, "missing.png");
  CHECK_EXIT(restore_in(folder.path(), apply + Args{"broken.png"}), 3, "broken.png");
  CHECK_EXIT(restore_in(folder.path(), words("train --out r --data folder:none")), 3, "has no pictures");
  Args small = words("train --out r --size 13 --net tiny --data synthetic:shapes");
  CHECK_EXIT(restore_in(folder.path(), small), 3, "too small to cut 13 x 13");
  std::string damaged = folder.path("damaged.safetensors"), bytes = read_text(run + "/checkpoint.safetensors");
  bytes[bytes.size() - 100] ^= 1;
  write_text(damaged, bytes);
  Args from = words("apply --in broken.png --out o --ckpt");
  CHECK_EXIT(restore_in(folder.path(), from + Args{damaged}), 4, "damaged.safetensors");
  CHECK_EXIT(restore_in(folder.path(), {"eval", folder.path("none")}), 4, "there is no checkpoint");
  std::string other = folder.path("other.safetensors");
  io::save_safetensors(other, {{"x", zeros({2})}}, {{"format", "mote-checkpoint"}});
  CHECK_EXIT(restore_in(folder.path(), from + Args{other}), 4, "no checkpoint of mote restore");
  CHECK_EXIT(restore_in(folder.path(), {"train", "--out", "none", "--resume"}), 4, "no checkpoint in");
}

// ---- Training ------------------------------------------------------------------------------------------------------

TEST_CASE("a restoration run leaves its configuration, log, grid and report", "[restore-cli]") {
  const std::string& run = trained();
  for (const char* file : {"config.toml", "checkpoint.safetensors", "report.html", "samples/step_000007.png"})
    CHECK(fs::exists(run + "/" + file));
  std::vector<std::string> phases;
  std::istringstream lines(read_text(run + "/log.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    Json record = Json::parse(line);
    phases.push_back(record.at("phase"));
    CHECK(std::isfinite(record.at("loss").get<double>()));
  }
  CHECK(phases == std::vector<std::string>{"end-to-end", "end-to-end", "end-to-end", "diffusion", "diffusion",
                                           "diffusion", "diffusion"});
  Tensor grid = io::load_image(run + "/samples/step_000007.png");
  CHECK(grid.shape() == Shape{2 * 8 + 2, 4 * 8 + 3 * 2, 1});   // damaged, prior, restored, clean
  ScratchFolder folder;
  std::string before = read_text(run + "/report.html");
  done(mote_in(folder, {"report", run}));
  CHECK(read_text(run + "/report.html") == before);
  for (const char* part : {"denoise", "end-to-end prior", "data:image/png;base64,", "synthetic:shapes"})
    CHECK(contains(before, part));
}

TEST_CASE("a restoration run repeats bit for bit, with any number of threads and from its config.toml",
          "[restore-cli][threads]") {
  ScratchFolder folder;
  Args args = train_args("three");
  args[size_t(std::find(args.begin(), args.end(), "--threads") - args.begin()) + 1] = "3";
  done(restore_in(folder.path(), args));
  CHECK(difference_of(trained(), folder.path("three")) == "");
  done(restore_in(folder.path(), {"train", "--config", trained() + "/config.toml", "--out", "again", "--quiet",
                                  "--threads", "1"}));
  CHECK(difference_of(trained(), folder.path("again")) == "");
}

TEST_CASE("a restoration resumed in either phase and between them is the uninterrupted one", "[restore-cli]") {
  ScratchFolder folder;
  // Taken up from the checkpoint before the last one, or from the last one of a run that was asked for fewer steps.
  struct Stop {
    std::string name;
    int steps;
    std::string save_every;
    bool previous;
    int64_t step;
  };
  for (const Stop& stop : {Stop{"within", 0, "2", true, 2}, Stop{"between", 0, "0", false, 3},
                           Stop{"after", 4, "5", true, 5}}) {
    INFO(stop.name);
    done(restore_in(folder.path(), train_args(stop.name, {"--save-every", stop.save_every}, stop.steps)));
    std::string kept = folder.path("kept.safetensors");
    fs::copy_file(folder.path(stop.name + (stop.previous ? "/checkpoint.prev.safetensors" : "/checkpoint.safetensors")),
                  kept, fs::copy_options::overwrite_existing);
    CHECK(io::read_safetensors_header(kept).second.at("step") == std::to_string(stop.step));
    done(restore_in(folder.path(), words("train --resume --steps 4 --quiet --threads 1 --out ") + Args{stop.name} +
                                       Args{"--ckpt", kept}));
    CHECK(difference_of(trained(), folder.path(stop.name)) == "");
  }
  // Ended by a signal, wherever it comes.
  Process process(folder.path(), Args{"restore"} + train_args("cut", {"--save-every", "1"}));
  process.wait_for("cut/checkpoint.safetensors");
  process.kill(SIGTERM);
  Result ended = process.wait();
  CHECK((ended.code == 143 || ended.code == 0));
  done(restore_in(folder.path(), words("train --out cut --resume --quiet --threads 1")));
  CHECK(difference_of(trained(), folder.path("cut")) == "");
}

TEST_CASE("training the diffusion leaves the end-to-end network as it was", "[restore-cli]") {
  ScratchFolder folder;
  done(restore_in(folder.path(), train_args("run", {"--save-every", "3"})));   // saved at 3, 6 and 7
  io::Safetensors before = io::load_safetensors(folder.path("run/checkpoint.prev.safetensors"));
  io::Safetensors after = io::load_safetensors(folder.path("run/checkpoint.safetensors"));
  int compared = 0, changed = 0;
  for (const auto& [name, tensor] : before.tensors) {
    if (name.starts_with("e2e.")) {
      CHECK_SAME(after.tensors.at(name), tensor);
      ++compared;
    } else if (name.starts_with("model.")) {
      changed += difference(after.tensors.at(name), tensor, 0, 0) != "";
    }
  }
  CHECK(compared > 10);
  CHECK(changed > 10);
}

TEST_CASE("a finished restoration goes on when it is given more steps, in bf16 too", "[restore-cli]") {
  ScratchFolder folder;
  Args args = train_args("run", {"--precision", "bf16"});
  done(restore_in(folder.path(), args));
  CHECK(difference_of(trained(), folder.path("run")) != "");
  Result more = done(restore_in(folder.path(), words("train --out run --resume --steps 6 --quiet --json --threads 1")));
  CHECK(more.json().at("step") == 9);
  CHECK(more.json().at("precision") == "bf16");
  io::save_png(folder.path("p.png"), picture(9, 12, 1, 0));
  done(restore_in(folder.path(), words("apply --run run --in p.png --out o --steps 2 --quiet --threads 1")));
  CHECK(io::load_image(folder.path("o/p.png")).shape() == Shape{9, 12, 1});
}

TEST_CASE("an end-to-end network learns to denoise within a few steps", "[restore-cli]") {
  ScratchFolder folder;
  // Noise of 50 levels would give 14.15 dB; half of that on the black background is clipped away.
  done(restore_in(folder.path(), words("train --data synthetic:shapes --sigma 50 --size 8 --limit 64 --net tiny "
                                       "--steps 0 --e2e-lr 3e-3 --batch 8 --ema 0.9 --warmup 5 --seed 1 --quiet "
                                       "--threads 1 --sample-count 0 --out run --e2e-steps ") +
                                     Args{kSanitized ? "30" : "80"}));
  Result eval = done(restore_in(folder.path(), words("eval run --limit 16 --steps 2 --quiet --json --threads 1")));
  Json rows = eval.json().at("rows");
  REQUIRE(rows.size() == 4);   // no diffusion yet
  CHECK(rows[0].at("psnr").get<double>() == Approx(17).margin(1));
  CHECK(rows[3].at("method") == "end-to-end U-Net");
  CHECK(rows[3].at("psnr").get<double>() > rows[0].at("psnr").get<double>() + (kSanitized ? 1 : 2.5));
  CHECK(rows[3].at("ssim").get<double>() > rows[0].at("ssim").get<double>());
  // What has not begun is not used: the end-to-end network restores alone, and it is said.
  io::save_png(folder.path("p.png"), picture(12, 12, 1, 0));
  Result apply = done(restore_in(folder.path(), words("apply --run run --in p.png --out o --steps 2 --threads 1")));
  CHECK(contains(apply.err, "end-to-end network restores alone"));
  CHECK_SAME(io::load_image(folder.path("o/p.png")), io::load_image(folder.path("o/end-to-end/p.png")));
}

// ---- Restoring -----------------------------------------------------------------------------------------------------

TEST_CASE("pictures of any size and colour are restored into files of their names", "[restore-cli]") {
  ScratchFolder folder;
  fs::create_directories(folder.path("in"));
  io::save_png(folder.path("in/small.png"), picture(3, 5, 1, 0));
  io::save_png(folder.path("in/tile.png"), picture(8, 8, 1, 1));
  io::save_png(folder.path("in/large.png"), picture(21, 17, 3, 2));
  std::string apply = "apply --steps 2 --samples 2 --json --quiet --threads 1 --run " + trained();
  Result result = done(restore_in(folder.path(), words(apply + " --in in --out out")));
  CHECK(io::load_image(folder.path("out/small.png")).shape() == Shape{3, 5, 1});
  CHECK(io::load_image(folder.path("out/tile.png")).shape() == Shape{8, 8, 1});
  CHECK(io::load_image(folder.path("out/large.png")).shape() == Shape{21, 17, 1});   // the run is grey
  CHECK(io::load_image(folder.path("out/end-to-end/large.png")).shape() == Shape{21, 17, 1});
  CHECK_FALSE(fs::exists(folder.path("out/input")));
  Json json = result.json();
  CHECK(json.at("pictures").size() == 3);
  CHECK(json.at("samples") == 2);
  CHECK(json.at("checkpoint_hash").get<std::string>().size() == 16);
  CHECK(Json::parse(read_text(folder.path("out/restore.json"))) == json);
  // The same picture alone in its folder has the same number, and comes out the same.
  done(restore_in(folder.path(), words(apply + " --in in/large.png --out one")));
  CHECK_SAME(io::load_image(folder.path("one/large.png")), io::load_image(folder.path("out/large.png")));
}

TEST_CASE("--degrade damages clean pictures by the seed, keeps the input, and scores what comes out", "[restore-cli]") {
  ScratchFolder folder;
  fs::create_directories(folder.path("in"));
  io::save_png(folder.path("in/a.png"), picture(16, 13, 1, 0));
  io::save_png(folder.path("in/b.png"), picture(12, 20, 1, 1));
  auto apply = [&](const std::string& out, const std::string& more) {
    std::string line = "apply --in in --steps 2 --degrade --json --quiet --threads 1 --run " + trained();
    return done(restore_in(folder.path(), words(line + " --out " + out + " " + more))).json();
  };
  Json json = apply("one", "--seed 4"), again = apply("two", "--seed 4"), other = apply("three", "--seed 5");
  double psnr = number(json, "input", "psnr");
  CHECK(psnr == Approx(20.2).margin(1));   // sigma 25: 20.17 dB
  CHECK(number(again, "input", "psnr") == psnr);
  CHECK(number(again, "restored", "psnr") == number(json, "restored", "psnr"));
  CHECK(number(other, "input", "psnr") != psnr);
  CHECK(number(apply("four", "--seed 4 --sigma 50"), "input", "psnr") < psnr - 4);
  CHECK(json.contains("end_to_end"));
  CHECK_SAME(io::load_image(folder.path("one/input/a.png")), io::load_image(folder.path("two/input/a.png")));
  double mean = 0;
  for (const char* name : {"a.png", "b.png"})
    mean += metrics::psnr(io::load_image(folder.path("one/") + name), io::load_image(folder.path("in/") + name)) / 2;
  CHECK(number(json, "restored", "psnr") == Approx(mean).epsilon(1e-9));
}

// ---- Scoring -------------------------------------------------------------------------------------------------------

TEST_CASE("mote restore eval compares input, filters and runs on the same damage", "[restore-cli]") {
  ScratchFolder folder;
  std::string plain = "train --data synthetic:shapes --size 8 --limit 24 --net tiny --steps 3 --T 40 --schedule scaled "
                      "--batch 4 --seed 3 --quiet --threads 1 --sample-count 0 --method ";
  done(restore_in(folder.path(), words(plain + "plain --out plain")));
  done(restore_in(folder.path(), words(plain + "resfusion --out resfusion")));
  Args args = words("eval plain resfusion " + trained() +
                    " --limit 5 --samples 3,1 --steps 2 --quiet --threads 1 --seed 7");
  Result result = done(restore_in(folder.path(), args + Args{"--json"}));
  Json json = result.json(), rows = json.at("rows");
  std::vector<std::string> names;
  for (const Json& row : rows) {
    names.push_back(row.at("method").get<std::string>() + " " + std::to_string(row.at("samples").get<int>()));
    CHECK(std::isfinite(row.at("psnr").get<double>()));
    CHECK(row.at("count") == 5);
  }
  CHECK(names == std::vector<std::string>{"damaged input 0", "median 3x3 0", "local Wiener 5x5 0", "plain DDPM 1",
                                          "plain DDPM 3", "Resfusion, the image as prior 1",
                                          "Resfusion, the image as prior 3", "end-to-end U-Net 0",
                                          "ResEnsemble, end-to-end prior 1", "ResEnsemble, end-to-end prior 3"});
  CHECK(rows[0].at("psnr").get<double>() == Approx(23).margin(1));
  CHECK(rows[2].at("psnr").get<double>() > rows[0].at("psnr").get<double>());
  CHECK(rows[4].at("psnr").get<double>() > rows[3].at("psnr").get<double>());   // the mean of draws beats one
  CHECK(rows[5].at("steps").get<int>() > 2);   // resfusion has its own
  Json gain = rows[9].at("psnr_gain");
  CHECK(gain.at("over") == "end-to-end U-Net");
  CHECK(gain.at("mean").get<double>() ==
        Approx(rows[9].at("psnr").get<double>() - rows[7].at("psnr").get<double>()).margin(1e-9));
  CHECK(gain.at("low").get<double>() <= gain.at("mean").get<double>());
  CHECK(gain.at("high").get<double>() >= gain.at("mean").get<double>());
  CHECK(contains(json.at("protocol").get<std::string>(), "all channels"));
  CHECK(fs::exists(folder.path("plain/eval/eval.png")));
  CHECK(contains(read_text(folder.path("plain/eval/eval.html")), "local Wiener 5x5"));
  Json saved = Json::parse(read_text(folder.path("plain/eval/eval.json")));
  CHECK(saved.at("rows")[4] == rows[4]);
  // The same numbers from other batches; the table as text.
  Result text = done(restore_in(folder.path(), args + words("--tiles 2 --out other --pictures 0")));
  Json other = Json::parse(read_text(folder.path("other/eval.json")));
  for (size_t i = 0; i < rows.size(); ++i)   // other kernels may round a level here and there
    CHECK(other.at("rows")[i].at("psnr").get<double>() == Approx(rows[i].at("psnr").get<double>()).margin(0.05));
  CHECK(contains(text.out, "sharpness"));
  CHECK(contains(text.out, "other/eval.html"));
  CHECK_FALSE(fs::exists(folder.path("other/eval.png")));
}

TEST_CASE("runs for other damage are not compared, and larger pictures are evaluated whole", "[restore-cli]") {
  ScratchFolder folder;
  std::string rain = "train --task rain --data synthetic:shapes --size 8 --limit 8 --net tiny --steps 1 --T 40 "
                     "--schedule scaled --batch 2 --quiet --threads 1 --sample-count 0 --out rain";
  done(restore_in(folder.path(), words(rain)));
  CHECK_EXIT(restore_in(folder.path(), {"eval", "rain", trained()}), 2, "other damage");
  fs::create_directories(folder.path("pictures"));
  io::save_png(folder.path("pictures/a.png"), picture(20, 14, 3, 0));
  io::save_png(folder.path("pictures/b.png"), picture(20, 14, 3, 1));
  io::save_png(folder.path("pictures/c.png"), picture(13, 15, 3, 1));
  std::string eval = "eval rain --data pictures --samples 1 --steps 2 --json --quiet --threads 1 --blend ";
  Json whole = done(restore_in(folder.path(), words(eval + "steps"))).json();
  CHECK(whole.at("images") == 3);
  CHECK(whole.at("rows").size() == 3);   // input, median, ResEnsemble
  done(restore_in(folder.path(), words(eval + "final --y")));
  CHECK_EXIT(restore_in(folder.path(), words("eval rain --data folder:pictures --split other")), 2, "no other part");
}

TEST_CASE("mote eval restore scores files of the same names", "[restore-cli]") {
  ScratchFolder folder;
  for (const char* name : {"pred", "truth", "other"}) fs::create_directories(folder.path(name));
  for (double shift : {0.0, 1.0}) {
    std::string name = "/p" + std::to_string(int(shift)) + ".png";
    Tensor clean = picture(14, 16, 3, shift), off = clean.clone();
    for (int64_t i = 0; i < off.numel(); ++i) off.data<uint8_t>()[i] = uint8_t(off.data<uint8_t>()[i] + 5);
    io::save_png(folder.path("truth") + name, clean);
    io::save_png(folder.path("pred") + name, shift > 0 ? clean : off);
  }
  Json json = done(mote_in(folder, words("eval restore --pred pred --truth truth --json"))).json();
  CHECK(json.at("psnr").get<double>() == Approx(34.1514).margin(1e-4));
  CHECK(json.at("identical") == 1);
  CHECK(json.at("count") == 2);
  CHECK(json.at("pictures")[1].at("psnr").is_null());
  CHECK(json.at("pictures")[0].at("ssim").get<double>() < 1);
  Json luma = done(mote_in(folder, words("eval restore --pred pred --truth truth --y --json"))).json();
  CHECK(luma.at("psnr").get<double>() == Approx(34.1514 + 20 * std::log10(255 / 219.0)).margin(1e-4));
  CHECK(contains(luma.at("protocol").get<std::string>(), "BT.601"));
  Result text = done(mote_in(folder, words("eval restore --pred pred --truth truth")));
  CHECK(contains(text.out, "PSNR 34.15 dB"));
  CHECK(contains(text.out, "1 identical"));

  CHECK_EXIT(mote_in(folder, words("eval restore --pred pred")), 2, "--truth DIR");
  CHECK_EXIT(mote_in(folder, words("eval restore --pred pred --truth other")), 3, "has no pictures");
  CHECK_EXIT(mote_in(folder, words("eval restore --pred pred --truth nowhere")), 3, "no such folder");
  io::save_png(folder.path("other/p0.png"), picture(16, 14, 3, 0));
  CHECK_EXIT(mote_in(folder, words("eval restore --pred pred --truth other")), 3, "p1.png has no partner in other");
  io::save_png(folder.path("other/p1.png"), picture(14, 16, 3, 0));
  CHECK_EXIT(mote_in(folder, words("eval restore --pred pred --truth other")), 3, "[14, 16, 3], but other/p0.png");
}
