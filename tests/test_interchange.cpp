// Weights to and from the names of other programs: the table against the published list, layouts, round trips, numbers
// against PyTorch, and files that do not fit. The program itself is run by test_cli_ckpt.cpp.
#include "apps/diffusers_config.h"
#include "apps/interchange.h"
#include "tests/interchange_support.h"
#include "tests/io_support.h"

using namespace mote;
using namespace mote::apps;
using namespace mote::nn;
using namespace mote::test;

namespace {

// ---- The table of google/ddpm-cifar10-32 [papers/pndm.md, 8.7] -----------------------------------------------------

void add_layer(Shapes& into, const std::string& name, const Shape& weight) {
  into[name + ".weight"] = weight;
  into[name + ".bias"] = {weight[0]};
}

void add_resnet(Shapes& into, const std::string& name, int64_t in, int64_t out) {
  add_layer(into, name + ".norm1", {in});
  add_layer(into, name + ".conv1", {out, in, 3, 3});
  add_layer(into, name + ".time_emb_proj", {out, 512});
  add_layer(into, name + ".norm2", {out});
  add_layer(into, name + ".conv2", {out, out, 3, 3});
  if (in != out) add_layer(into, name + ".conv_shortcut", {out, in, 1, 1});
}

Shapes published_shapes() {
  Shapes all;
  add_layer(all, "conv_in", {128, 3, 3, 3});
  add_layer(all, "time_embedding.linear_1", {512, 128});
  add_layer(all, "time_embedding.linear_2", {512, 512});
  auto resnets = [&](const std::string& block, const std::vector<int64_t>& widths_in, int64_t out) {
    for (size_t i = 0; i < widths_in.size(); ++i)
      add_resnet(all, concat_text(block, ".resnets.", i), widths_in[i], out);
  };
  resnets("down_blocks.0", {128, 128}, 128);
  resnets("down_blocks.1", {128, 256}, 256);
  resnets("down_blocks.2", {256, 256}, 256);
  resnets("down_blocks.3", {256, 256}, 256);
  resnets("mid_block", {256, 256}, 256);
  resnets("up_blocks.0", {512, 512, 512}, 256);
  resnets("up_blocks.1", {512, 512, 512}, 256);
  resnets("up_blocks.2", {512, 512, 384}, 256);
  resnets("up_blocks.3", {384, 256, 256}, 128);
  for (const char* name : {"down_blocks.1.attentions.0", "down_blocks.1.attentions.1", "mid_block.attentions.0",
                           "up_blocks.2.attentions.0", "up_blocks.2.attentions.1", "up_blocks.2.attentions.2"}) {
    add_layer(all, std::string(name) + ".group_norm", {256});
    for (const char* part : {".to_q", ".to_k", ".to_v", ".to_out.0"})
      add_layer(all, std::string(name) + part, {256, 256});
  }
  add_layer(all, "down_blocks.0.downsamplers.0.conv", {128, 128, 3, 3});
  for (const char* name :
       {"down_blocks.1.downsamplers.0.conv", "down_blocks.2.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv",
        "up_blocks.1.upsamplers.0.conv", "up_blocks.2.upsamplers.0.conv"})
    add_layer(all, name, {256, 256, 3, 3});
  add_layer(all, "conv_norm_out", {128});
  add_layer(all, "conv_out", {3, 128, 3, 3});
  return all;
}

Shapes table_shapes(const UNetConfig& config, Naming naming) {
  Shapes all;
  for (const ForeignTensor& row : foreign_tensors(config, naming)) all[row.theirs] = row.their_shape;
  return all;
}

/// The names and shapes of diffusers as another naming has them.
Shapes renamed(const Shapes& shapes, Naming naming, int64_t levels) {
  Shapes all;
  for (const auto& [name, shape] : shapes) {
    std::string theirs = naming == Naming::ddim               ? ddim_name(name, levels)
                         : naming == Naming::diffusers_legacy ? legacy_name(name)
                                                              : name;
    all[theirs] = naming == Naming::ddim ? ddim_shape(theirs, shape) : shape;
  }
  return all;
}

}   // namespace

TEST_CASE("the cifar10 network has the published names and shapes in every naming", "[interchange]") {
  Shapes published = published_shapes();
  CHECK(published.size() == 328);
  int64_t elements = 0;
  for (const auto& [name, shape] : published) elements += shape.numel();
  CHECK(elements == 35746307);
  for (Naming naming : {Naming::diffusers, Naming::diffusers_legacy, Naming::ddim}) {
    Shapes expected = renamed(published, naming, 4), got = table_shapes(UNetConfig::preset("cifar10"), naming);
    INFO(name_of(naming));
    CHECK(got.size() == 328);   // as many rows have as many names
    for (const auto& [name, shape] : expected) {
      INFO(name);
      REQUIRE(got.count(name) == 1);
      CHECK(got[name] == shape);
    }
  }
  // A few names as they stand in the files, so that the rules above are not only compared with each other.
  Shapes ddim = table_shapes(UNetConfig::preset("cifar10"), Naming::ddim);
  CHECK(ddim.at("up.3.block.0.nin_shortcut.weight") == Shape{256, 512, 1, 1});
  CHECK(ddim.at("up.1.block.2.conv1.weight") == Shape{256, 384, 3, 3});   // 16 x 16, the third from the lowest
  CHECK(ddim.at("up.0.block.0.temb_proj.weight") == Shape{128, 512});
  CHECK(ddim.at("up.1.attn.2.proj_out.weight") == Shape{256, 256, 1, 1});
  CHECK(ddim.at("down.1.attn.0.norm.bias") == Shape{256});
  CHECK(ddim.at("mid.attn_1.q.weight") == Shape{256, 256, 1, 1});
  CHECK(ddim.at("down.2.downsample.conv.weight") == Shape{256, 256, 3, 3});
  CHECK(ddim.at("up.3.upsample.conv.weight") == Shape{256, 256, 3, 3});
  CHECK(ddim.count("up.0.upsample.conv.weight") == 0);
  CHECK(ddim.at("temb.dense.1.weight") == Shape{512, 512});
  CHECK(ddim.count("norm_out.weight") == 1);
  CHECK(table_shapes(UNetConfig::preset("cifar10"), Naming::diffusers_legacy)
            .count("mid_block.attentions.0.proj_attn.bias"));
}

TEST_CASE("a layout moves each element to its place and back", "[interchange]") {
  auto row = [](const Shape& ours, const Shape& theirs, Layout layout) {
    return ForeignTensor{"a", "b", ours, theirs, layout};
  };
  ForeignTensor conv = row({2, 3, 4, 5}, {5, 4, 2, 3}, Layout::conv);
  Tensor x = formula_tensor({2, 3, 4, 5}, 1), y = to_foreign(x, conv);
  CHECK(y.shape() == Shape{5, 4, 2, 3});
  auto at = [](const Tensor& t, int64_t a, int64_t b, int64_t c, int64_t d) {
    return t.to_vector()[size_t(((a * t.size(1) + b) * t.size(2) + c) * t.size(3) + d)];
  };
  CHECK(at(y, 4, 1, 0, 2) == at(x, 0, 2, 1, 4));
  CHECK(at(y, 0, 3, 1, 0) == at(x, 1, 0, 3, 0));
  CHECK_SAME(from_foreign(y, conv), x);
  ForeignTensor linear = row({2, 3}, {3, 2}, Layout::linear);
  CHECK_SAME(to_foreign(from({1, 2, 3, 4, 5, 6}, {2, 3}), linear), from({1, 4, 2, 5, 3, 6}, {3, 2}));
  CHECK_SAME(from_foreign(from({1, 4, 2, 5, 3, 6}, {3, 2}), linear), from({1, 2, 3, 4, 5, 6}, {2, 3}));
  ForeignTensor pointwise = row({2, 3}, {3, 2, 1, 1}, Layout::pointwise);
  CHECK_SAME(to_foreign(from({1, 2, 3, 4, 5, 6}, {2, 3}), pointwise), from({1, 4, 2, 5, 3, 6}, {3, 2, 1, 1}));
  CHECK_SAME(from_foreign(from({1, 4, 2, 5, 3, 6}, {3, 2, 1, 1}), pointwise), from({1, 2, 3, 4, 5, 6}, {2, 3}));
}

// ---- Round trips ---------------------------------------------------------------------------------------------------

namespace {

/// A checkpoint with random weights, of which none is 0 or 1 everywhere.
Checkpoint random_checkpoint(const UNetConfig& config) {
  Checkpoint c;
  c.unet = config;
  c.schedule = "cosine";
  c.T = 500;
  c.prediction = Prediction::v;
  Generator generator{5};
  for (const auto& [name, value] : UNet(config, 1).parameters())
    c.model.emplace_back(name, normal(value.shape(), DType::f32, generator));
  return c;
}

void check_same_weights(const NamedTensors& got, const NamedTensors& expected) {
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    INFO(expected[i].first);
    CHECK(got[i].first == expected[i].first);
    CHECK_SAME(got[i].second, expected[i].second);
  }
}

}   // namespace

TEST_CASE("weights go out and come back bit for bit in every naming", "[interchange]") {
  for (const char* preset : {"tiny", "fmnist", "cifar10"}) {
    UNetConfig config = UNetConfig::preset(preset);
    if (kSanitized && config.base == 128) config.base = 32;   // the same 328 tensors
    bool has_32_groups = config.base == 128;
    Checkpoint c = random_checkpoint(config);
    for (Naming naming : {Naming::diffusers, Naming::diffusers_legacy, Naming::ddim}) {
      if (has_32_groups && naming == Naming::diffusers_legacy) continue;   // 140 MB, and only other names
      INFO(preset << " " << name_of(naming));
      ScratchFolder folder;
      bool is_file = naming == Naming::ddim;
      ExportRequest request{.out = folder.path(is_file ? "w.safetensors" : "out"), .naming = naming};
      if (!has_32_groups) {
        // Other groups than those programs have: they would compute something else.
        CHECK_FAILS(Error::Kind::usage, export_weights(c, c.model, request), "8", "16", "groups", "--weights-only");
        CHECK(!std::filesystem::exists(request.out));
        request.weights_only = true;
      }
      std::vector<std::string> files = export_weights(c, c.model, request);
      CHECK(files.size() == (is_file || !has_32_groups ? 1 : 4));
      for (const std::string& file : files) CHECK(std::filesystem::exists(file));
      Checkpoint back = import_weights({.file = request.out});
      CHECK(back.unet == c.unet);
      CHECK(back.schedule == "cosine");
      CHECK(back.T == 500);
      CHECK(back.prediction == Prediction::v);
      CHECK(back.model.empty());
      CHECK(contains(back.source, concat_text(name_of(naming), " names in ", files[0])));
      check_same_weights(back.ema, c.model);
    }
  }
}

TEST_CASE("networks with other options and with classes go out and come back", "[interchange]") {
  UNetConfig config = published_config();
  config.classes = 3;
  config.dropout = 0.25;
  Checkpoint c = random_checkpoint(config);
  c.schedule = "linear:0.00085,0.012";
  ScratchFolder folder;
  std::vector<std::string> files = export_weights(c, c.model, {.out = folder.path("out")});
  Checkpoint back = import_weights({.file = folder.path("out")});
  CHECK(back.unet == config);
  CHECK(back.schedule == "linear:0.00085,0.012");
  check_same_weights(back.ema, c.model);
  // A config.json that tells of another network than the metadata is not passed over.
  nlohmann::json json = nlohmann::json::parse(std::ifstream(files[1]));
  json["norm_eps"] = 1e-6;
  std::ofstream(files[1]) << json.dump();
  CHECK_FAILS(Error::Kind::checkpoint, import_weights({.file = folder.path("out")}), "config.json",
              "another network than the metadata", "--config-json");
  back = import_weights({.file = folder.path("out"), .config_json = files[1], .null_class = true});
  CHECK(back.unet.norm_eps == 1e-6);
  json["norm_eps"] = 1e-5;
  std::ofstream(files[1]) << json.dump();
  // config.json and scheduler_config.json alone say the same as the metadata that export leaves in the weights.
  io::Safetensors file = io::load_safetensors(files[0]);
  save(files[0], file.tensors);
  CHECK_FAILS(Error::Kind::checkpoint, import_weights({.file = folder.path("out")}), "'num_class_embeds' is 4",
              "--null-class");
  back = import_weights({.file = folder.path("out"), .null_class = true});
  CHECK(back.unet == canonical(config));
  CHECK(back.unet.heads == 4);   // of 8 channels: attention only sees 32
  CHECK(back.schedule == "linear:0.00085,0.012");
  CHECK(back.prediction == Prediction::v);
  CHECK(contains(back.source, "network: " + folder.path("out/config.json")));
  CHECK(contains(back.source, "noise: " + folder.path("out/scheduler_config.json")));
  check_same_weights(back.ema, c.model);
  // The other program has none of these options.
  CHECK_FAILS(Error::Kind::usage, export_weights(c, c.model, {.out = folder.path("w"), .naming = Naming::ddim}),
              "8 groups", "eps of the norms is 1e-05", "halving pads all sides", "cos first", "frequency shift is 0",
              "4 heads", "3 classes");
}

TEST_CASE("an export replaces another only when asked, and a failed one leaves nothing", "[interchange]") {
  Checkpoint c = random_checkpoint(published_config());
  ScratchFolder folder;
  ExportRequest request{.out = folder.path("out")};
  export_weights(c, c.model, request);
  CHECK_FAILS(Error::Kind::usage, export_weights(c, c.model, request), "exists", "--overwrite");
  request.overwrite = true;
  request.weights_only = true;
  export_weights(c, c.model, request);
  CHECK(!std::filesystem::exists(folder.path("out/config.json")));   // of the export before
  request.out = folder.path("out/diffusion_pytorch_model.safetensors");
  CHECK_FAILS(Error::Kind::usage, export_weights(c, c.model, request), "is a file; diffusers needs a folder");
  request = {.out = folder.path("out"), .naming = Naming::ddim, .weights_only = true};
  CHECK_FAILS(Error::Kind::usage, export_weights(c, c.model, request), "is a folder; a file name is needed");
  request = {.out = folder.path("new")};
  CHECK_FAILS(Error::Kind::argument, export_weights(c, c.ema, request), "the weight 'conv_in.weight' is missing");
  CHECK(!std::filesystem::exists(folder.path("new")));
}

// ---- Numbers -------------------------------------------------------------------------------------------------------

// golden/unet2d_torch.py, which needs PyTorch, writes the numbers; the weights follow from `formula`. One network as
// google/ddpm-cifar10-32 is made, one with every default of UNet2DModel and classes.
TEST_CASE("imported weights compute what PyTorch computes with them", "[interchange]") {
  nlohmann::json cases = golden("unet2d_torch.json");
  REQUIRE(cases.size() == 2);
  for (const auto& [name, expected] : cases.items()) {
    ScratchFolder folder;
    std::ofstream(folder.path("config.json")) << expected["config"].dump();
    UNetConfig config = unet_from_diffusers(folder.path("config.json"), 0, true);
    Shapes shapes = torch_shapes(config);
    CHECK(shapes.size() == expected["tensors"].get<size_t>());
    std::map<std::string, Tensor> weights = formula_weights(shapes);
    int64_t elements = 0;
    for (const auto& [tensor, value] : weights) elements += value.numel();
    CHECK(elements == expected["parameters"].get<int64_t>());

    Shape shape{2, config.size, config.size, config.channels};
    Tensor t = from(expected["times"].get<std::vector<double>>(), {2});
    Tensor ids = config.classes > 0 ? from(expected["classes"].get<std::vector<double>>(), {2}, DType::i64) : Tensor();
    std::vector<double> wanted = expected["output"].get<std::vector<double>>();
    auto sampled = [&, every = expected["every"].get<size_t>()](const Tensor& y) {
      std::vector<double> all = y.to_vector(), some;
      for (size_t i = 0; i < all.size(); i += every) some.push_back(all[i]);
      return from(some, {int64_t(some.size())}, DType::f64);
    };
    for (Naming naming : {Naming::diffusers, Naming::diffusers_legacy, Naming::ddim}) {
      if (naming == Naming::ddim && config.classes > 0) continue;   // which has no names for them
      INFO(name << " " << name_of(naming));
      std::map<std::string, Tensor> theirs;
      for (const auto& [tensor, value] : weights) {
        Shapes one = renamed({{tensor, value.shape()}}, naming, config.levels());
        theirs[one.begin()->first] = value.view(one.begin()->second);
      }
      save(folder.path("w.safetensors"), theirs);
      bool is_ddim = naming == Naming::ddim;
      Checkpoint c =
          import_weights({.file = folder.path("w.safetensors"), .size = is_ddim ? config.size : 0, .null_class = true});
      CHECK(c.unet == config);
      UNet unet(c.unet, 1);
      unet.load_state(as_map(c.ema));
      NoGrad no_grad;
      Tensor expected_output = from(wanted, {int64_t(wanted.size())}, DType::f64);
      CHECK_CLOSE(sampled(unet.forward(formula_tensor(shape, 1000, 16), t, ids)), expected_output, 1e-5, 1e-5);
      unet.to(DType::f64);
      Tensor exact = unet.forward(formula_tensor(shape, 1000, 16, 0, DType::f64), t, ids);
      CHECK_CLOSE(sampled(exact), expected_output, 1e-9, 1e-9);   // the file keeps 12 digits
    }
  }
}

// ---- Files that do not fit -----------------------------------------------------------------------------------------

TEST_CASE("everything that is missing, surplus or of another kind is told at once", "[interchange]") {
  ScratchFolder folder;
  std::string path = folder.path("w.safetensors");
  std::map<std::string, Tensor> weights = formula_weights(torch_shapes(UNetConfig::preset("tiny")));
  ImportRequest request{.file = path, .unet = "tiny"};
  save(path, weights);
  CHECK(import_weights(request).ema.size() == weights.size());
  auto changed = weights;
  changed.erase("conv_in.bias");
  changed.erase("mid_block.attentions.0.to_k.weight");
  changed["conv_out.weight"] = zeros({1, 16, 1, 1});
  changed["time_embedding.linear_1.bias"] = zeros({64}, DType::i32);
  changed["extra"] = zeros({2, 3});
  save(path, changed);
  CHECK_FAILS(Error::Kind::checkpoint, import_weights(request), path, "problems: 5", "missing: 'conv_in.bias' [16]",
              "missing: 'mid_block.attentions.0.to_k.weight' [32, 32]", "unexpected: 'extra' f32[2, 3]",
              "'conv_out.weight' is f32[1, 16, 1, 1], needs a floating [1, 16, 3, 3]",
              "'time_embedding.linear_1.bias' is i32[64], needs a floating [64]");
  changed = weights;
  changed["conv_in.weight"].data<float>()[7] = std::nanf("");
  save(path, changed);
  CHECK_FAILS(Error::Kind::checkpoint, import_weights(request), "'conv_in.weight'", "is not finite");
}

TEST_CASE("weights in f64 and bf16 become f32, and names with module. are taken without it", "[interchange]") {
  ScratchFolder folder;
  std::map<std::string, Tensor> weights = formula_weights(torch_shapes(UNetConfig::preset("tiny")));
  auto imported = [&](const std::map<std::string, Tensor>& tensors) {
    save(folder.path("w.safetensors"), tensors);
    return import_weights({.file = folder.path("w.safetensors"), .unet = "tiny"});
  };
  Checkpoint plain = imported(weights);
  std::map<std::string, Tensor> wide, half, wrapped;
  for (const auto& [name, value] : weights) {
    wide[name] = value.to(DType::f64);
    half[name] = value.to(DType::bf16);
    wrapped["module." + name] = value;
  }
  check_same_weights(imported(wide).ema, plain.ema);
  check_same_weights(imported(wrapped).ema, plain.ema);
  NamedTensors rounded = imported(half).ema;
  for (size_t i = 0; i < rounded.size(); ++i) {
    CHECK(rounded[i].second.dtype() == DType::f32);
    CHECK_SAME(rounded[i].second, plain.ema[i].second.to(DType::bf16).to(DType::f32));
  }
}

TEST_CASE("the naming is told from the names, and a file of neither is refused", "[interchange]") {
  ScratchFolder folder;
  std::string path = folder.path("w.safetensors");
  save(path, {{"model.0.weight", zeros({1})}, {"model.1.weight", zeros({1})}});
  CHECK_FAILS(Error::Kind::checkpoint, import_weights({.file = path}), "no UNet that is known here",
              "'model.0.weight'");
  Checkpoint ours = random_checkpoint(UNetConfig::preset("tiny"));
  save_checkpoint(path, ours);
  CHECK_FAILS(Error::Kind::checkpoint, import_weights({.file = path}), "a checkpoint of mote already");
  CHECK_FAILS(Error::Kind::usage, import_weights({.file = path, .naming = "torch"}), "'torch'", "diffusers and ddim");
  CHECK_FAILS(Error::Kind::checkpoint, import_weights({.file = folder.path("none")}), "there is no file");
  CHECK_FAILS(Error::Kind::checkpoint, import_weights({.file = folder.path()}), "diffusion_pytorch_model.safetensors");
  // Forced, the names are compared with those of the table.
  save(path, formula_weights(torch_shapes(UNetConfig::preset("tiny"))));
  CHECK_FAILS(Error::Kind::checkpoint, import_weights({.file = path, .naming = "ddim", .unet = "tiny"}),
              "missing: 'down.0.block.0.conv1.weight'", "unexpected: 'down_blocks.0.resnets.0.conv1.weight'");
}

TEST_CASE("a network without a config is read from the shapes where the rest is known", "[interchange]") {
  ScratchFolder folder;
  std::string path = folder.path("w.safetensors");
  UNetConfig config;
  config.size = 16;
  config.base = 32;
  config.multipliers = {1, 2};
  config.attention = {8};
  config.blocks = 3;
  config.channels = 2;
  config.dropout = 0;
  config.norm_groups = 32;
  Shapes shapes = torch_shapes(config);
  save(path, formula_weights(shapes));
  CHECK_FAILS(Error::Kind::usage, import_weights({.file = path}), "there is no config.json", "--unet ddpm");
  CHECK_FAILS(Error::Kind::usage, import_weights({.file = path, .unet = "ddpm"}), "--size");
  CHECK(import_weights({.file = path, .unet = "ddpm", .size = 16}).unet == config);
  CHECK_FAILS(Error::Kind::usage, import_weights({.file = path, .unet = "ddpm", .size = 15}),
              "size 15 must divide by 2");
  save(path, formula_weights(renamed(shapes, Naming::ddim, 2)));
  CHECK_FAILS(Error::Kind::usage, import_weights({.file = path}), "--size");
  Checkpoint c = import_weights({.file = path, .size = 16});
  CHECK(c.unet == config);
  CHECK(contains(c.source, "shapes of the tensors"));
  CHECK(contains(c.source, "noise: the default"));
  shapes["conv_in.weight"] = {32, 2};
  save(path, formula_weights(shapes));
  CHECK_FAILS(Error::Kind::checkpoint, import_weights({.file = path, .unet = "ddpm", .size = 16}),
              "'conv_in.weight' is [32, 2]");
  shapes["conv_in.weight"] = {48, 2, 3, 3};
  save(path, formula_weights(shapes));
  CHECK_FAILS(Error::Kind::checkpoint, import_weights({.file = path, .unet = "ddpm", .size = 16}),
              "level 0 has 32 channels", "no multiple of the 48");
}
