// restore_scores.h - scores of restored pictures in words and JSON, for `mote eval restore` and `mote restore eval`.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "diffusion/metrics/restoration.h"

namespace mote::apps {

/// How the scores are made: channels, range, window, what is averaged.
std::string score_protocol(metrics::Channels channels);

/// Keys count, identical, psnr, ssim, sharpness; null for what is not finite.
nlohmann::ordered_json json_of(const metrics::RestorationMeans& means);

/// The number with so many digits behind the point; "-" for NaN.
std::string number_or_dash(double value, int digits);

}  // namespace mote::apps
