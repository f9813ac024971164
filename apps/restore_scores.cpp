#include "apps/restore_scores.h"

#include <cmath>
#include <cstdio>

namespace mote::apps {

std::string score_protocol(metrics::Channels channels) {
  return std::string(channels == metrics::Channels::luma ? "luma Y of BT.601" : "all channels") +
         " of 8-bit pictures, range 255, PSNR a mean over pictures, SSIM 11x11 Gaussian sigma 1.5 inside the picture";
}

nlohmann::ordered_json json_of(const metrics::RestorationMeans& means) {
  using Json = nlohmann::ordered_json;
  auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
  return {{"count", means.count},
          {"identical", means.identical},
          {"psnr", number(means.psnr)},
          {"ssim", number(means.ssim)},
          {"sharpness", number(means.sharpness)}};
}

std::string number_or_dash(double value, int digits) {
  char text[48];
  if (std::isnan(value)) return "-";
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

}  // namespace mote::apps
