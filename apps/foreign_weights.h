// foreign_weights.h - weights of a UNet under the names of other programs. One table, generated from a UNetConfig, says
// what each parameter is called there and how it lies in memory; import and export walk it in the two directions.
// What the other program computes with the weights is described by its config files (diffusers_config.h);
// interchange.h puts both together.
#pragma once
#include <map>
#include <set>
#include <string>
#include <vector>

#include "nn/unet.h"
#include "tensor/io/safetensors.h"

namespace mote::apps {

/// Whose names: those of diffusers' UNet2DModel, with today's attention names (to_q, to_out.0) or the ones before them
/// (query, proj_attn); or those of the PyTorch ports of DDIM and PNDM (down.0.block.0).        [papers/pndm.md, 8.7]
enum class Naming { diffusers, diffusers_legacy, ddim };
const char* name_of(Naming naming);

/// How a tensor lies there, and what it is here:
///   linear [out, in] and conv [out, in, kh, kw] have their axes turned here, [in, out] and [kh, kw, in, out];
///   pointwise [out, in, 1, 1] is a convolution that is a linear layer here; same is the same.
enum class Layout { same, linear, conv, pointwise };

struct ForeignTensor {
  std::string ours, theirs;   // names
  Shape our_shape, their_shape;
  Layout layout;
};

/// A row for each parameter of the network, in the order of UNet::parameters().
std::vector<ForeignTensor> foreign_tensors(const nn::UNetConfig& config, Naming naming);

/// `ours` as it lies there, and `theirs` as it lies here, of any dtype; copies. The shapes are those of the row.
Tensor to_foreign(const Tensor& ours, const ForeignTensor& row);
Tensor from_foreign(const Tensor& theirs, const ForeignTensor& row);

/// The widths that attention sees: those of the attending levels, and the lowest, which the middle has.
std::set<int64_t> attended_widths(const nn::UNetConfig& config);

/// The same network in the terms of Mote's own ones: norm_groups = 0 where min(32, C / 4) is that anyway, a number of
/// heads where attention sees one width only, so that equal networks have equal configs. `config` must validate.
nn::UNetConfig canonical(nn::UNetConfig config);

// ---- Files ---------------------------------------------------------------------------------------------------------

/// The header of a file of weights. Nothing of the data is read until read_weights.
struct ForeignFile {
  std::string path;
  std::string prefix;                         // "module." where every name has it, as torch's DataParallel leaves it
  std::vector<io::SafetensorsInfo> tensors;   // names without the prefix
  std::map<std::string, std::string> metadata;
  int64_t bytes = 0;
  const io::SafetensorsInfo* find(const std::string& name) const;   // null if there is none
};

/// Throws Error(checkpoint) if it is no safetensors file, Error(data) if it cannot be opened.
ForeignFile open_foreign(const std::string& path);

/// Which naming the file has. Throws Error(checkpoint) naming some of its tensors if it is none of them.
Naming naming_of(const ForeignFile& file);
/// Today's or the older attention names, for a file whose naming is known to be that of diffusers.
Naming diffusers_naming_of(const ForeignFile& file);

/// The network of Ho 2020 whose widths, levels, blocks and attention are those of the file's tensors: 32 groups, eps
/// 1e-6, one head, padding right and below, sin before cos. None of that, nor the image size, can be seen in the weights.
/// Throws Error(checkpoint) if a tensor that tells a width is missing or odd, Error(usage) if the size does not fit.
/// null_class: a class embedding counts a class "none", the last.
nn::UNetConfig config_from_shapes(const ForeignFile& file, Naming naming, int64_t size, bool null_class);

struct ForeignWeights {
  nn::NamedTensors tensors;   // f32, under our names, in the order of UNet::parameters()
  std::string hash;           // over the names and bytes of the file's tensors
};

/// Reads the weights of the network from a file. Names, shapes and dtypes are compared before any data is read, and
/// everything missing, surplus or of another kind is reported in one Error(checkpoint); f64 and bf16 become f32.
/// Error(checkpoint) as well for a weight that is not finite.
ForeignWeights read_weights(const ForeignFile& file, const nn::UNetConfig& config, Naming naming);

/// Writes f32 weights of the network under the names of another program, atomically.
void write_weights(const std::string& path, const nn::NamedTensors& weights, const nn::UNetConfig& config,
                   Naming naming, const std::map<std::string, std::string>& metadata);

/// What the DDIM and PNDM programs would compute otherwise with weights of this network, a sentence each: they have
/// constants where UNetConfig has options. Empty if nothing.
std::vector<std::string> not_in_ddim(const nn::UNetConfig& config);

}  // namespace mote::apps
