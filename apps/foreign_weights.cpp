#include "apps/foreign_weights.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "apps/checkpoint.h"
#include "apps/common.h"
#include "tensor/io/file.h"
#include "tensor/profile.h"

namespace mote::apps {
namespace {

// ---- Names ---------------------------------------------------------------------------------------------------------

/// A part of one of our names, which are those of diffusers, and what stands in its place.
struct Rule {
  const char *ours, *theirs;
};

constexpr Rule kLegacyRules[] = {
    {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}};

constexpr Rule kDdimRules[] = {
    {"time_embedding.linear_1.", "temb.dense.0."},
    {"time_embedding.linear_2.", "temb.dense.1."},
    {"mid_block.resnets.0.", "mid.block_1."},
    {"mid_block.attentions.0.", "mid.attn_1."},
    {"mid_block.resnets.1.", "mid.block_2."},
    {"down_blocks.", "down."},
    {"up_blocks.", "up."},   // and counted from the other end: turn_up_index
    {".resnets.", ".block."},
    {".attentions.", ".attn."},
    {".downsamplers.0.", ".downsample."},
    {".upsamplers.0.", ".upsample."},
    {".time_emb_proj.", ".temb_proj."},
    {".conv_shortcut.", ".nin_shortcut."},
    {".group_norm.", ".norm."},
    {".to_q.", ".q."},
    {".to_k.", ".k."},
    {".to_v.", ".v."},
    {".to_out.0.", ".proj_out."},
    {"conv_norm_out.", "norm_out."},
};

template <size_t N>
std::string renamed(std::string name, const Rule (&rules)[N]) {
  for (const Rule& rule : rules)
    if (size_t at = name.find(rule.ours); at != std::string::npos)
      name.replace(at, std::string_view(rule.ours).size(), rule.theirs);
  return name;
}

/// up.0 is the full resolution there; with us, and in diffusers, the lowest one.
std::string turn_up_index(const std::string& name, int64_t levels) {
  if (!name.starts_with("up.")) return name;
  size_t dot = name.find('.', 3);
  return concat_text("up.", levels - 1 - std::stoll(name.substr(3, dot - 3)), name.substr(dot));
}

std::string foreign_name(const std::string& ours, Naming naming, int64_t levels) {
  if (naming == Naming::diffusers) return ours;
  if (naming == Naming::diffusers_legacy) return renamed(ours, kLegacyRules);
  return turn_up_index(renamed(ours, kDdimRules), levels);
}

Layout layout_of(const std::string& ours, const Shape& shape, Naming naming) {
  if (shape.ndim() == 4) return Layout::conv;
  if (shape.ndim() == 1 || ours == "class_embedding.weight") return Layout::same;   // an embedding is [V, D] everywhere
  bool is_attention = ours.find(".attentions.") != std::string::npos;
  return naming == Naming::ddim && is_attention ? Layout::pointwise : Layout::linear;
}

Shape foreign_shape(const Shape& s, Layout layout) {
  switch (layout) {
    case Layout::same: return s;
    case Layout::linear: return {s[1], s[0]};
    case Layout::conv: return {s[3], s[2], s[0], s[1]};
    case Layout::pointwise: return {s[1], s[0], 1, 1};
  }
  return s;
}

}   // namespace

const char* name_of(Naming naming) {
  switch (naming) {
    case Naming::diffusers: return "diffusers";
    case Naming::diffusers_legacy: return "diffusers (legacy)";
    case Naming::ddim: return "ddim";
  }
  return "?";
}

std::vector<ForeignTensor> foreign_tensors(const nn::UNetConfig& config, Naming naming) {
  DryRun shapes_only;
  std::vector<ForeignTensor> rows;
  for (const auto& [name, parameter] : nn::UNet(config, 0).parameters()) {
    Layout layout = layout_of(name, parameter.shape(), naming);
    rows.push_back({name, foreign_name(name, naming, config.levels()), parameter.shape(),
                    foreign_shape(parameter.shape(), layout), layout});
  }
  return rows;
}

Tensor to_foreign(const Tensor& ours, const ForeignTensor& row) {
  NoGrad no_grad;
  if (row.layout == Layout::same) return ours.clone();
  Tensor turned = row.layout == Layout::conv ? permute(ours, {3, 2, 0, 1}) : permute(ours, {1, 0});
  return turned.view(row.their_shape);
}

Tensor from_foreign(const Tensor& theirs, const ForeignTensor& row) {
  NoGrad no_grad;
  if (row.layout == Layout::same) return theirs.clone();
  if (row.layout == Layout::conv) return permute(theirs, {2, 3, 1, 0});
  return permute(theirs.view({row.our_shape[1], row.our_shape[0]}), {1, 0});
}

std::set<int64_t> attended_widths(const nn::UNetConfig& config) {
  std::set<int64_t> widths{config.width(config.levels() - 1)};
  for (int64_t level = 0; level < config.levels(); ++level)
    if (config.attends(level)) widths.insert(config.width(level));
  return widths;
}

nn::UNetConfig canonical(nn::UNetConfig config) {
  std::vector<int64_t> normed = config.norm_widths();
  bool is_rule = std::all_of(normed.begin(), normed.end(),
                             [&](int64_t width) { return nn::GroupNorm::groups_for(width) == config.norm_groups; });
  if (is_rule) config.norm_groups = 0;
  if (std::set<int64_t> widths = attended_widths(config); config.head_width > 0 && widths.size() == 1) {
    config.heads = *widths.begin() / config.head_width;
    config.head_width = 0;
  }
  return config;
}

// ---- Files ---------------------------------------------------------------------------------------------------------

const io::SafetensorsInfo* ForeignFile::find(const std::string& name) const {
  auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& info) { return info.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

ForeignFile open_foreign(const std::string& path) {
  ForeignFile file;
  file.path = path;
  std::tie(file.tensors, file.metadata) = io::read_safetensors_header(path);
  file.bytes = int64_t(std::filesystem::file_size(path));
  const std::string wrapped = "module.";
  bool is_wrapped =
      !file.tensors.empty() && std::all_of(file.tensors.begin(), file.tensors.end(), [&](const auto& info) {
        return info.name.size() > wrapped.size() && info.name.starts_with(wrapped);
      });
  if (is_wrapped) {
    file.prefix = wrapped;
    for (io::SafetensorsInfo& info : file.tensors) info.name.erase(0, wrapped.size());
  }
  return file;
}

Naming diffusers_naming_of(const ForeignFile& file) {
  bool is_legacy = std::any_of(file.tensors.begin(), file.tensors.end(), [](const io::SafetensorsInfo& info) {
    return info.name.find(".attentions.") != std::string::npos && info.name.find(".query.") != std::string::npos;
  });
  return is_legacy ? Naming::diffusers_legacy : Naming::diffusers;
}

Naming naming_of(const ForeignFile& file) {
  if (file.find("down_blocks.0.resnets.0.conv1.weight")) return diffusers_naming_of(file);
  if (file.find("down.0.block.0.conv1.weight")) return Naming::ddim;
  if (auto format = file.metadata.find("format"); format != file.metadata.end() && format->second == "mote-checkpoint")
    fail(Error::Kind::checkpoint, file.path,
         ": this is a checkpoint of mote already; mote sample --ckpt takes it as it is");
  std::vector<std::string> some;
  for (size_t i = 0; i < std::min<size_t>(3, file.tensors.size()); ++i)
    some.push_back(io::printable(file.tensors[i].name));
  fail(Error::Kind::checkpoint, file.path, ": the tensors are named like those of no UNet that is known here: neither ",
       "down_blocks.0.resnets.0.conv1.weight (diffusers) nor down.0.block.0.conv1.weight (ddim) is among the ",
       file.tensors.size(), some.empty() ? std::string() : ", which begin with " + joined(some));
}

nn::UNetConfig config_from_shapes(const ForeignFile& file, Naming naming, int64_t size, bool null_class) {
  auto there = [&](const auto&... parts) { return file.find(foreign_name(concat_text(parts...), naming, 1)); };
  auto shape = [&](const auto&... parts) {
    const io::SafetensorsInfo* info = there(parts...);
    if (!info || info->shape.ndim() != 4)
      fail(Error::Kind::checkpoint, file.path, ": '", foreign_name(concat_text(parts...), naming, 1), "' is ",
           info ? concat_text(info->shape) : "missing",
           "; a convolution [out, in, 3, 3] of this name tells the widths");
    return info->shape;
  };
  nn::UNetConfig config;
  config.dropout = 0;
  config.size = size;
  config.base = shape("conv_in.weight")[0];
  config.channels = shape("conv_in.weight")[1];
  config.multipliers.clear();
  config.attention.clear();
  auto has_level = [&](int64_t level) { return there("down_blocks.", level, ".resnets.0.conv1.weight") != nullptr; };
  for (int64_t level = 0; level == 0 || (level <= 10 && has_level(level)); ++level) {   // validate refuses more than 10
    int64_t width = shape("down_blocks.", level, ".resnets.0.conv1.weight")[0];
    if (config.base == 0 || width % config.base != 0)
      fail(Error::Kind::checkpoint, file.path, ": level ", level, " has ", width,
           " channels, which is no multiple of the ", config.base, " that the first convolution makes");
    config.multipliers.push_back(width / config.base);
    if (there("down_blocks.", level, ".attentions.0.group_norm.weight")) config.attention.push_back(size >> level);
  }
  for (config.blocks = 1; there("down_blocks.0.resnets.", config.blocks, ".conv1.weight");) ++config.blocks;
  if (null_class)
    if (const io::SafetensorsInfo* classes = there("class_embedding.weight"); classes && classes->shape.ndim() == 2)
      config.classes = classes->shape[0] - 1;
  config.norm_groups = 32;
  config.validate();
  return canonical(config);
}

namespace {

/// Refuses a network far larger than the file before memory is asked for it: a config may name any width.
void require_room(const ForeignFile& file, const nn::UNetConfig& config) {
  double bytes = 16.0 * double(config.classes) * double(config.base);   // and of the convolutions on the way down
  for (int64_t level = 0; level < config.levels(); ++level)
    bytes += double(config.blocks) * 2 * 9 * 4 * double(config.width(level)) * double(config.width(level));
  if (bytes > std::max(4.0 * double(file.bytes), 1073741824.0))
    fail(Error::Kind::checkpoint, file.path, ": the network has more than ", bytes_text(int64_t(bytes)),
         " of weights, the file has ", bytes_text(file.bytes), "; these are the weights of another UNet");
}

}   // namespace

ForeignWeights read_weights(const ForeignFile& file, const nn::UNetConfig& config, Naming naming) {
  require_room(file, config);
  std::vector<ForeignTensor> rows = foreign_tensors(config, naming);
  std::map<std::string, size_t> row_of;
  for (size_t i = 0; i < rows.size(); ++i) row_of[rows[i].theirs] = i;

  std::string problems;
  int64_t count = 0;
  auto report = [&](const auto&... parts) {
    problems += concat_text("\n  ", parts...);
    ++count;
  };
  std::set<std::string> there;
  for (const io::SafetensorsInfo& info : file.tensors) there.insert(info.name);
  for (const ForeignTensor& row : rows)
    if (!there.count(row.theirs)) report("missing: '", row.theirs, "' ", row.their_shape);
  for (const io::SafetensorsInfo& info : file.tensors) {
    auto found = row_of.find(info.name);
    if (found == row_of.end()) report("unexpected: ", io::printable(info.name), " ", info.dtype, info.shape);
    else if (!(info.shape == rows[found->second].their_shape) || !is_floating(info.dtype))
      report("of another kind: '", info.name, "' is ", info.dtype, info.shape, ", needs a floating ",
             rows[found->second].their_shape);
  }
  if (count > 0)
    fail(Error::Kind::checkpoint, file.path, ": the tensors do not fit the ", rows.size(),
         " of the network under the names of ", name_of(naming), "; problems: ", count, problems);

  ForeignWeights weights;
  weights.tensors.resize(rows.size());
  size_t taken = 0;
  io::Hasher hasher;
  io::read_safetensors(file.path, [&](const io::SafetensorsInfo& info, const Tensor& tensor) {
    auto found = row_of.find(info.name.substr(file.prefix.size()));
    if (found == row_of.end() || !(tensor.shape() == rows[found->second].their_shape))
      fail(Error::Kind::checkpoint, file.path, ": has changed while it was read");
    const ForeignTensor& row = rows[found->second];
    hasher.update(row.theirs.data(), row.theirs.size());
    hasher.update(tensor.raw(), size_t(tensor.nbytes()));
    weights.tensors[found->second] = {row.ours, from_foreign(tensor.to(DType::f32), row)};
    ++taken;
  });
  if (taken != rows.size()) fail(Error::Kind::checkpoint, file.path, ": has changed while it was read");
  weights.hash = hasher.hex();
  try {
    require_finite("weight", weights.tensors);
  } catch (const Error& bad) {
    fail(Error::Kind::checkpoint, file.path, ": ", bad.what());
  }
  return weights;
}

void write_weights(const std::string& path, const nn::NamedTensors& weights, const nn::UNetConfig& config,
                   Naming naming, const std::map<std::string, std::string>& metadata) {
  std::map<std::string, Tensor> ours = as_map(weights);
  std::vector<std::pair<std::string, Tensor>> theirs;
  for (const ForeignTensor& row : foreign_tensors(config, naming)) {
    check(ours.count(row.ours) == 1, "write_weights: the weight '", row.ours, "' is missing");
    theirs.emplace_back(row.theirs, to_foreign(ours.at(row.ours), row));
  }
  io::save_safetensors(path, theirs, metadata);
}

std::vector<std::string> not_in_ddim(const nn::UNetConfig& config) {
  std::vector<std::string> differences;
  auto differs = [&](bool holds, const auto&... parts) {
    if (holds) differences.push_back(concat_text(parts...));
  };
  for (int64_t width : config.norm_widths())
    differs(config.norm().groups_for(width) != 32, "a norm over ", width, " channels has ",
            config.norm().groups_for(width), " groups, there it has 32");
  differs(config.norm_eps != 1e-6, "the eps of the norms is ", config.norm_eps, ", there it is 1e-06");
  differs(config.pad_evenly, "halving pads all sides, there only right and below");
  differs(config.cos_first, "the time embedding has cos first, there sin is first");
  differs(config.freq_shift != 1, "the frequency shift is ", config.freq_shift, ", there it is 1");
  for (int64_t level = 0; level < config.levels(); ++level) {
    if (level + 1 < config.levels() && !config.attends(level)) continue;
    int64_t heads = config.heads_of(config.width(level));
    differs(heads != 1, "attention at level ", level, " has ", heads, " heads, there it has one");
  }
  differs(config.classes > 0, "it has ", config.classes, " classes, there are none");
  return differences;
}

}   // namespace mote::apps
