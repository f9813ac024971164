// diffusers_config.h - config.json of diffusers' UNet2DModel and scheduler_config.json of its schedulers, both ways.
// Reading refuses by name every key that would change the arithmetic and that Mote has no option for; what does not
// matter is a list in the .cpp; a key in neither is refused. The weights are read by foreign_weights.h.
#pragma once
#include <string>
#include <vector>

#include "diffusion/process.h"
#include "nn/unet.h"

namespace mote::apps {

/// The noise that a network was trained on, as Checkpoint keeps it.
struct Noise {
  std::string schedule = "linear";   // for Schedule::named
  int64_t T = 1000;
  Prediction prediction = Prediction::eps;
};

/// The network of a config.json; a key that is missing has diffusers' default.
///   size: height and width of the images, in place of sample_size; 0: as sample_size has it
///   null_class: num_class_embeds counts a class "none", the last, as Mote's `classes` does not
/// Throws Error(checkpoint) listing every key that cannot be followed, Error(data) if the file cannot be read.
nn::UNetConfig unet_from_diffusers(const std::string& path, int64_t size, bool null_class);

/// What diffusers cannot be told of this network, a sentence each. Empty if it can express all of it.
std::vector<std::string> not_in_diffusers(const nn::UNetConfig& config);
/// The text of its config.json. Throws Error(argument) unless not_in_diffusers is empty.
std::string unet_to_diffusers(const nn::UNetConfig& config);

/// The noise of a scheduler_config.json, whichever scheduler it is of; which sampler draws the images is left to
/// `mote sample`. Throws as unet_from_diffusers does.
Noise noise_from_diffusers(const std::string& path);
std::string noise_to_diffusers(const Noise& noise);
/// The text of model_index.json, which makes a folder of both a DDPMPipeline.
std::string diffusers_index();

}  // namespace mote::apps
