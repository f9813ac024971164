// `mote ckpt import` and `mote ckpt export` for other programs, as a user meets them: files, exit codes, messages.
#include "tests/interchange_support.h"
#include "tests/run_mote.h"

using namespace mote;
using namespace mote::test;
namespace fs = std::filesystem;

namespace {

nn::UNetConfig tiny_config() {
  nn::UNetConfig config = nn::UNetConfig::preset("tiny").fit(8, 1);
  config.norm_groups = 8;   // one number for all norms, so that diffusers can hold it
  return config;
}

/// A checkpoint with model and averaged weights, as a training leaves it.
void save_trained(const std::string& path) {
  apps::Checkpoint c;
  c.unet = tiny_config();
  c.step = 7;
  Generator generator{1};
  for (const auto& [name, value] : nn::UNet(c.unet, 1).parameters()) {
    c.model.emplace_back(name, normal(value.shape(), DType::f32, generator));
    c.ema.emplace_back(name, affine(c.model.back().second, 0.5, 0).detach());
  }
  apps::save_checkpoint(path, c);
}

}   // namespace

TEST_CASE("a run goes to diffusers and back, and samples are the same bits", "[cli]") {
  ScratchFolder folder;
  save_trained(folder.path("run.safetensors"));
  Result exported =
      done(mote_in(folder, {"ckpt", "export", "run.safetensors", "--naming", "diffusers", "--out", "out", "--json"}));
  CHECK(exported.json()["weights"] == "ema");   // where there are any
  CHECK(exported.json()["files"].size() == 4);
  for (const std::string name :
       {"diffusion_pytorch_model.safetensors", "config.json", "scheduler_config.json", "model_index.json"})
    CHECK(fs::exists(folder.path("out/" + name)));
  CHECK(nlohmann::json::parse(read_text(folder.path("out/config.json")))["norm_num_groups"] == 8);
  Result imported = done(mote_in(folder, {"ckpt", "import", "out", "--out", "back.safetensors"}));
  CHECK(contains(imported.out, "diffusers names in out/diffusion_pytorch_model.safetensors"));
  for (const std::string name : {"run", "back"})
    done(mote_in(folder, words("sample --ckpt " + name + ".safetensors --steps 2 --count 2 --quiet --threads 1 --npy " +
                               name + ".npy")));
  CHECK((read_text(folder.path("run.npy")) == read_text(folder.path("back.npy"))));

  Result info = done(mote_in(folder, {"ckpt", "info", "back.safetensors"}));
  CHECK(contains(info.out, "source       diffusers names in out/diffusion_pytorch_model.safetensors (hash "));
  CHECK(contains(info.out, "imported weights"));
  CHECK(contains(mote_in(folder, {"ckpt", "info", "back.safetensors", "--json"}).json()["source"],
                 "network: as exported"));
  CHECK(!contains(done(mote_in(folder, {"ckpt", "info", "run.safetensors"})).out, "source"));
  done(mote_in(folder, {"ckpt", "verify", "back.safetensors"}));
}

TEST_CASE("which weights are exported, and under which names, is a flag", "[cli]") {
  ScratchFolder folder;
  save_trained(folder.path("run.safetensors"));
  apps::Checkpoint trained = apps::load_checkpoint(folder.path("run.safetensors"));
  auto exported = [&](const Args& flags, const std::string& out, const std::string& file, const std::string& tensor) {
    done(mote_in(folder, Args{"ckpt", "export", "run.safetensors", "--out", out} + flags));
    io::Safetensors written = io::load_safetensors(folder.path(file));
    REQUIRE(written.tensors.count(tensor) == 1);
    return written.tensors.at(tensor);
  };
  Tensor model = apps::as_map(trained.model).at("conv_in.bias"), ema = apps::as_map(trained.ema).at("conv_in.bias");
  const std::string weights = "/diffusion_pytorch_model.safetensors";
  CHECK_SAME(exported({"--naming", "diffusers"}, "a", "a" + weights, "conv_in.bias"), ema);
  CHECK_SAME(exported({"--naming", "diffusers", "--model"}, "b", "b" + weights, "conv_in.bias"), model);
  CHECK_SAME(exported({"--naming", "diffusers", "--ema", "--overwrite"}, "b", "b" + weights, "conv_in.bias"), ema);
  CHECK_SAME(exported({"--model"}, "c.safetensors", "c.safetensors", "model.conv_in.bias"), model);
  CHECK_SAME(exported({}, "d.safetensors", "d.safetensors", "ema.conv_in.bias"), ema);
  CHECK(exported({"--naming", "diffusers", "--legacy"}, "e", "e" + weights, "mid_block.attentions.0.query.weight")
            .ndim() == 2);
  CHECK(exported({"--naming", "ddim", "--weights-only"}, "f.safetensors", "f.safetensors", "mid.attn_1.q.weight")
            .ndim() == 4);
  // Of a file with one kind of weights, that kind.
  done(mote_in(folder, words("ckpt export c.safetensors --naming diffusers --out g")));
  CHECK_SAME(io::load_safetensors(folder.path("g" + weights)).tensors.at("conv_in.bias"), model);
  CHECK_EXIT(mote_in(folder, words("ckpt export c.safetensors --naming diffusers --ema --out h")), 4,
             "no averaged weights");
  CHECK(!fs::exists(folder.path("h")));
}

TEST_CASE("a wrong command line of an import or export ends with exit code 2 and what would be right", "[cli]") {
  ScratchFolder folder;
  save_trained(folder.path("run.safetensors"));
  done(mote_in(folder, words("ckpt export run.safetensors --naming ddim --weights-only --out ddim.safetensors")));
  for (const auto& [arguments, message] : std::vector<std::pair<std::string, std::string>>{
           {"export run.safetensors --naming torch --out o", "mote, diffusers and ddim"},
           {"export run.safetensors --legacy --out o", "only with --naming diffusers"},
           {"export run.safetensors --weights-only --out o", "only with another --naming than mote"},
           {"export run.safetensors --ema --model --out o", "one of them"},
           {"export run.safetensors --naming diffusers", "--out"},
           {"export run.safetensors --naming diffusers --out ddim.safetensors", "diffusers needs a folder"},
           {"export run.safetensors --naming ddim --out o", "8 groups, there it has 32"},
           {"import --out o", "the weights are missing"},
           {"import ddim.safetensors", "--out"},
           {"import ddim.safetensors --out run.safetensors", "--overwrite"},
           {"import ddim.safetensors --naming torch --out o", "diffusers and ddim"},
           {"import ddim.safetensors --unet huge --out o", "tiny, fmnist, cifar10"},
           {"import ddim.safetensors --unet tiny --config-json c --out o", "give one of them"},
           {"import ddim.safetensors --unet ddpm --out o", "--size"},
           {"import ddim.safetensors --size -1 --out o", "--size: must be 1 to 16384"},
           {"import ddim.safetensors --T -1 --out o", "--T: must be 1 to 1000000"},
           {"import ddim.safetensors --schedule sqrt --out o", "linear or cosine"},
           {"import ddim.safetensors --prediction noise --out o", "noise"}}) {
    INFO(arguments);
    CHECK_EXIT(mote_in(folder, words("ckpt " + arguments)), 2, message);
  }
  CHECK(!fs::exists(folder.path("o")));
}

TEST_CASE("files that cannot be imported end with exit code 4 and leave nothing", "[cli]") {
  ScratchFolder folder;
  std::map<std::string, Tensor> weights = formula_weights(torch_shapes(tiny_config()));
  weights.erase("conv_in.bias");
  weights["surplus"] = zeros({1});
  save(folder.path("w.safetensors"), weights);
  write_text(folder.path("w.pt"), std::string("PK\3\4\0\0\x08\x08\0\0\0\0", 12) + std::string(200, '\0'));
  write_text(folder.path("config.json"), R"({"act_fn": "relu", "sample_size": 8})");
  Result misfit = mote_in(folder, words("ckpt import w.safetensors --unet tiny --size 8 --out o.safetensors"));
  CHECK_EXIT(misfit, 4, "missing: 'conv_in.bias'");
  CHECK(contains(misfit.err, "unexpected: 'surplus'"));
  CHECK_EXIT(mote_in(folder, words("ckpt import w.pt --out o.safetensors")), 4, "PyTorch pickle");
  CHECK_EXIT(mote_in(folder, words("ckpt import w.safetensors --out o.safetensors")), 4, "'act_fn' is \"relu\"");
  CHECK_EXIT(mote_in(folder, words("ckpt import missing.safetensors --out o.safetensors")), 4, "there is no file");
  int64_t files = 0;
  for (const auto& entry : fs::directory_iterator(folder.path())) files += entry.exists();
  CHECK(files == 3);
}

TEST_CASE("the noise of an import is that of the flags, then of scheduler_config.json", "[cli]") {
  ScratchFolder folder;
  save(folder.path("w.safetensors"), formula_weights(torch_shapes(nn::UNetConfig::preset("tiny"))));
  auto noise = [&](const std::string& flags) {
    done(mote_in(folder, words("ckpt import w.safetensors --unet tiny --overwrite --out o.safetensors " + flags)));
    nlohmann::json info = mote_in(folder, {"ckpt", "info", "o.safetensors", "--json"}).json();
    return concat_text(info["schedule"].get<std::string>(), " ", info["T"].get<int64_t>(), " ",
                       info["prediction"].get<std::string>());
  };
  CHECK(noise("") == "linear 1000 eps");
  CHECK(noise("--schedule linear:0.001,0.01 --T 50 --prediction x0") == "linear:0.001,0.01 50 x0");
  write_text(folder.path("scheduler_config.json"),
             R"({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"})");
  CHECK(noise("") == "cosine 1000 v");
  CHECK(noise("--T 100") == "cosine 100 v");
  done(mote_in(folder, words("sample --ckpt o.safetensors --steps 2 --count 1 --quiet --threads 1 --npy a.npy")));
}
