// config.json and scheduler_config.json of diffusers: what is followed, what is refused by name, what does not matter.
#include "apps/diffusers_config.h"
#include "tests/io_support.h"
#include "tests/nn_support.h"

using namespace mote;
using namespace mote::apps;
using namespace mote::nn;
using namespace mote::test;
using Json = nlohmann::json;

namespace {

/// The config of google/ddpm-cifar10-32.                                                          [papers/pndm.md, 8.7]
const Json kPublished = Json::parse(R"({
  "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": null,
  "block_out_channels": [128, 256, 256, 256], "center_input_sample": false,
  "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "downsample_padding": 0,
  "flip_sin_to_cos": false, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1,
  "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32, "time_embedding_type": "positional",
  "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]})");

class Reader {
 public:
  UNetConfig operator()(const Json& json, int64_t size = 0, bool null_class = false) const {
    std::ofstream(path()) << json.dump();
    return unet_from_diffusers(path(), size, null_class);
  }
  Noise noise(const Json& json) const {
    std::ofstream(path()) << json.dump();
    return noise_from_diffusers(path());
  }
  std::string path() const { return folder_.path("config.json"); }

 private:
  ScratchFolder folder_;
};

Json with(Json json, const std::string& key, const Json& value) {
  json[key] = value;
  return json;
}

}   // namespace

TEST_CASE("the published config is the cifar10 preset without dropout", "[interchange]") {
  Reader read;
  UNetConfig preset = UNetConfig::preset("cifar10");
  CHECK(read(with(kPublished, "dropout", 0.1)) == preset);
  preset.dropout = 0;   // what a missing key means
  CHECK(read(kPublished) == preset);
  CHECK(read(with(kPublished, "sample_size", {32, 32})) == preset);
  UNetConfig larger = read(kPublished, 64);
  CHECK(larger.size == 64);
  CHECK(larger.attention == std::vector<int64_t>{32});   // at the same level
}

TEST_CASE("keys that are missing have the defaults of diffusers", "[interchange]") {
  UNetConfig expected;
  expected.size = 64;
  expected.channels = 3;
  expected.base = 224;
  expected.multipliers = {1, 2, 3, 4};
  expected.attention = {32, 16, 8};
  expected.dropout = 0;
  expected.head_width = 8;
  expected.norm_eps = 1e-5;
  expected.pad_evenly = expected.cos_first = true;
  expected.freq_shift = 0;
  CHECK(Reader()({{"sample_size", 64}}) == expected);   // 32 groups are min(32, C / 4) at these widths
}

TEST_CASE("options of other networks are followed", "[interchange]") {
  Reader read;
  auto changed = [&](const std::string& key, const Json& value) { return read(with(kPublished, key, value)); };
  CHECK(changed("norm_eps", 1e-5).norm_eps == 1e-5);
  CHECK(changed("norm_num_groups", 16).norm_groups == 16);
  CHECK(changed("attn_norm_num_groups", 32).norm_groups == 0);
  CHECK(changed("downsample_padding", 1).pad_evenly);
  CHECK(changed("flip_sin_to_cos", true).cos_first);
  CHECK(changed("freq_shift", 0).freq_shift == 0);
  CHECK(changed("layers_per_block", 3).blocks == 3);
  CHECK(changed("attention_head_dim", 64).heads == 4);   // attention only sees 256 channels
  CHECK(changed("act_fn", "swish") == read(kPublished));
  CHECK(changed("num_train_timesteps", 1000) == read(kPublished));
  CHECK(changed("time_embedding_dim", 512) == read(kPublished));
  Json everywhere = with(with(with(kPublished, "attention_head_dim", 64), "down_block_types",
                              Json::array({"AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"})),
                         "up_block_types", Json::array({"UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"}));
  CHECK(read(everywhere).head_width == 64);   // 2 heads in 128 channels, 4 in 256
  CHECK(read(everywhere).attention == std::vector<int64_t>{32, 16});
  CHECK(read(with(kPublished, "num_class_embeds", 11), 0, true).classes == 10);
}

TEST_CASE("every key that would change the arithmetic is refused by name", "[interchange]") {
  Reader read;
  struct Case {
    const char* key;
    Json value;
    const char* why;
  };
  for (const Case& c : std::vector<Case>{
           {"_class_name", "UNet2DConditionModel", "only \"UNet2DModel\""},
           {"act_fn", "gelu", "only \"silu\""},
           {"center_input_sample", true, "only false"},
           {"time_embedding_type", "fourier", "only \"positional\""},
           {"time_embedding_dim", 256, "only null"},
           {"mid_block_type", nullptr, "only \"UNetMidBlock2D\""},
           {"mid_block_scale_factor", 1.4142, "only 1"},
           {"downsample_type", "resnet", "only \"conv\""},
           {"upsample_type", "resnet", "only \"conv\""},
           {"resnet_time_scale_shift", "scale_shift", "only \"default\""},
           {"add_attention", false, "only true"},
           {"class_embed_type", "timestep", "only null"},
           {"num_class_embeds", 10, "--null-class"},
           {"attn_norm_num_groups", 16, "only null"},
           {"downsample_padding", 2, "only 1"},
           {"out_channels", 6, "only 3"},
           {"in_channels", "three", "a whole number"},
           {"norm_eps", "small", "a number"},
           {"flip_sin_to_cos", 1, "true or false"},
           {"norm_num_groups", 0, "at least one group"},
           {"norm_num_groups", 48, "does not divide into 48 groups"},
           {"attention_head_dim", 0, "heads need a width"},
           {"attention_head_dim", 48, "heads of 48 channels do not divide a width of 256"},
           {"sample_size", nullptr, "give --size"},
           {"sample_size", {32, 64}, "give --size"},
           {"sample_size", 30, "size 30 must divide by 8"},
           {"block_out_channels", {128, 192, 256, 256}, "a multiple of the first"},
           {"down_block_types", {"DownBlock2D", "AttnDownBlock2D", "DownBlock2D"}, "one is needed for each"},
           {"block_out_channels", {128, -1}, "a list of widths"},
           {"down_block_types",
            {"DownBlock2D", "SkipDownBlock2D", "DownBlock2D", "DownBlock2D"},
            "only DownBlock2D and AttnDownBlock2D"},
           {"up_block_types",
            {"UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"},
            "attention must be at the levels"},
           {"layers_per_block", {2, 2, 2, 2}, "a whole number"},
           {"dropout_type", 0, "is not known"}}) {
    INFO(c.key << " = " << c.value.dump());
    CHECK_FAILS(Error::Kind::checkpoint, read(with(kPublished, c.key, c.value)), read.path(), c.why);
    bool is_of_network =
        std::string(c.why).find("divide") != std::string::npos;   // told by UNetConfig, under its own names
    if (!is_of_network)
      CHECK_FAILS(Error::Kind::checkpoint, read(with(kPublished, c.key, c.value)), concat_text("'", c.key, "'"));
  }
  CHECK_FAILS(Error::Kind::checkpoint, read(with(with(kPublished, "act_fn", "relu"), "add_attention", false)),
              "problems: 2", "'act_fn'", "'add_attention'");
  CHECK_FAILS(Error::Kind::checkpoint, read(Json::array({1})), "is not a JSON object");
  CHECK_FAILS(Error::Kind::data, unet_from_diffusers("missing.json", 0, false), "missing.json");
}

TEST_CASE("a network is written so that reading gives it back, or what cannot be said is named", "[interchange]") {
  Reader read;
  UNetConfig many = published_config();
  many.head_width = 0;
  many.heads = 4;
  many.classes = 2;
  many.dropout = 0.1;
  UNetConfig wide = UNetConfig::preset("cifar10");
  wide.head_width = 32;
  wide.attention = {32, 16};
  for (const UNetConfig& config : {UNetConfig::preset("cifar10"), many, wide}) {
    INFO(to_json(config));
    CHECK(not_in_diffusers(config).empty());
    CHECK(read(Json::parse(unet_to_diffusers(config)), 0, true) == config);
  }
  auto told = [](UNetConfig config) {
    std::string all;
    for (const std::string& line : not_in_diffusers(config)) all += line + "\n";
    return all;
  };
  CHECK(contains(told(UNetConfig::preset("fmnist")), "8, 16, 24, 32 groups"));
  UNetConfig config = UNetConfig::preset("cifar10");
  config.multipliers = {2, 2};
  CHECK(contains(told(config), "128 channels and the first level 256"));
  config = wide;
  config.head_width = 0;
  config.heads = 4;
  CHECK(contains(told(config), "4 heads in widths of 128, 256"));
  CHECK_FAILS(Error::Kind::argument, unet_to_diffusers(config), "4 heads");
}

// ---- Noise ---------------------------------------------------------------------------------------------------------

TEST_CASE("a scheduler's config becomes a schedule, and what only concerns drawing is left out", "[interchange]") {
  Reader read;
  Noise plain = read.noise(Json::parse(R"({"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1",
    "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001, "clip_sample": true, "num_train_timesteps": 1000,
    "trained_betas": null, "variance_type": "fixed_large"})"));
  CHECK(plain.schedule == "linear");
  CHECK(plain.T == 1000);
  CHECK(plain.prediction == Prediction::eps);
  Noise other = read.noise({{"beta_start", 0.00085},
                            {"beta_end", 0.012},
                            {"num_train_timesteps", 500},
                            {"prediction_type", "v_prediction"}});
  CHECK(other.schedule == "linear:0.00085,0.012");
  CHECK(other.T == 500);
  CHECK(other.prediction == Prediction::v);
  CHECK(read.noise({{"beta_schedule", "squaredcos_cap_v2"}, {"prediction_type", "sample"}}).schedule == "cosine");
  CHECK(read.noise({{"prediction_type", "sample"}}).prediction == Prediction::x0);
  for (const Noise& noise : {plain, other, Noise{"cosine", 100, Prediction::x0}}) {
    Noise back = read.noise(Json::parse(noise_to_diffusers(noise)));
    CHECK(back.schedule == noise.schedule);
    CHECK(back.T == noise.T);
    CHECK(back.prediction == noise.prediction);
  }
}

TEST_CASE("noise of a kind that is not known is refused by name", "[interchange]") {
  Reader read;
  for (const auto& [key, value] : std::map<std::string, Json>{{"beta_schedule", "scaled_linear"},
                                                              {"trained_betas", {0.1, 0.2}},
                                                              {"rescale_betas_zero_snr", true},
                                                              {"use_flow_sigmas", true},
                                                              {"prediction_type", "flow"},
                                                              {"num_train_timesteps", "many"},
                                                              {"beta_start", "small"},
                                                              {"new_key", 1}}) {
    INFO(key);
    CHECK_FAILS(Error::Kind::checkpoint, read.noise({{key, value}}), read.path(), "'" + key + "'");
  }
  CHECK_FAILS(Error::Kind::checkpoint, read.noise({{"beta_start", 0.5}}), "0 < b0 <= b1 < 1");
  CHECK_FAILS(Error::Kind::checkpoint, read.noise({{"num_train_timesteps", 0}}), "T = 0");
}
