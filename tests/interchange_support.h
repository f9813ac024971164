// interchange_support.h - files as other programs write them, made without the table that is tested: names and shapes
// in the layout of PyTorch, [out, in, kh, kw] and [out, in].
#pragma once
#include <regex>

#include "apps/interchange.h"
#include "tests/nn_support.h"

namespace mote::test {

using Shapes = std::map<std::string, Shape>;

/// What the PyTorch ports of DDIM and PNDM call a tensor of diffusers.                           [papers/pndm.md, 8.7]
inline std::string ddim_name(std::string name, int64_t levels) {
  const std::pair<const char*, const char*> rules[] = {{"^time_embedding\\.linear_1", "temb.dense.0"},
                                                       {"^time_embedding\\.linear_2", "temb.dense.1"},
                                                       {"^mid_block\\.resnets\\.0", "mid.block_1"},
                                                       {"^mid_block\\.attentions\\.0", "mid.attn_1"},
                                                       {"^mid_block\\.resnets\\.1", "mid.block_2"},
                                                       {"^(down|up)_blocks\\.(\\d+)\\.resnets", "$1.$2.block"},
                                                       {"^(down|up)_blocks\\.(\\d+)\\.attentions", "$1.$2.attn"},
                                                       {"^down_blocks\\.(\\d+)\\.downsamplers.0", "down.$1.downsample"},
                                                       {"^up_blocks\\.(\\d+)\\.upsamplers.0", "up.$1.upsample"},
                                                       {"time_emb_proj", "temb_proj"},
                                                       {"conv_shortcut", "nin_shortcut"},
                                                       {"group_norm", "norm"},
                                                       {"to_([qkv])\\.", "$1."},
                                                       {"to_out\\.0", "proj_out"},
                                                       {"^conv_norm_out", "norm_out"}};
  for (const auto& [from, to] : rules) name = std::regex_replace(name, std::regex(from), to);
  if (std::smatch up; std::regex_match(name, up, std::regex("up\\.(\\d+)(\\..*)")))
    name = concat_text("up.", levels - 1 - std::stoi(up[1]), up[2].str());
  return name;
}

inline std::string legacy_name(std::string name) {
  for (const auto& [from, to] : {std::pair("to_q\\.", "query."), {"to_k\\.", "key."}, {"to_v\\.", "value."},
                                 {"to_out\\.0", "proj_attn"}})
    name = std::regex_replace(name, std::regex(from), to);
  return name;
}

/// The shape under a name of ddim: attention is made of 1x1 convolutions there.
inline Shape ddim_shape(const std::string& name, const Shape& shape) {
  bool is_attention = name.find(".attn") != std::string::npos;
  return is_attention && shape.ndim() == 2 ? Shape{shape[0], shape[1], 1, 1} : shape;
}

/// A tensor for each name by formula: stream k for the k-th name in sorted order, 1 added to the scale of a GroupNorm,
/// as golden/unet2d_torch.py has them.
inline std::map<std::string, Tensor> formula_weights(const Shapes& shapes) {
  std::map<std::string, Tensor> weights;
  uint64_t k = 0;
  for (const auto& [name, shape] : shapes) {
    std::string owner = name.substr(0, name.rfind('.'));
    bool is_scale = owner.find("norm", owner.rfind('.') + 1) != std::string::npos && name.ends_with(".weight");
    weights[name] = formula_tensor(shape, k++, 1, is_scale ? 1 : 0);
  }
  return weights;
}

inline void save(const std::string& path, const std::map<std::string, Tensor>& tensors) {
  io::save_safetensors(path, {tensors.begin(), tensors.end()}, {});
}

/// Names and shapes of diffusers for a network, from UNet::parameters: that they have its names is tested elsewhere.
inline Shapes torch_shapes(const nn::UNetConfig& config) {
  Shapes all;
  for (const auto& [name, value] : nn::UNet(config, 1).parameters()) {
    const Shape& s = value.shape();
    bool is_linear = s.ndim() == 2 && name != "class_embedding.weight";
    all[name] = s.ndim() == 4 ? Shape{s[3], s[2], s[0], s[1]} : is_linear ? Shape{s[1], s[0]} : s;
  }
  return all;
}

}  // namespace mote::test
