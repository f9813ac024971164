#include "apps/restore_scores.h"

#include <cmath>
#include <cstdio>

#include "apps/run_log.h"

namespace mote::apps {

std::string score_protocol(metrics::Channels channels) {
  return std::string(channels == metrics::Channels::luma ? "luma Y of BT.601" : "all channels") +
         " of 8-bit pictures, range 255, PSNR a mean over pictures, SSIM 11x11 Gaussian sigma 1.5 inside the picture";
}

nlohmann::ordered_json json_of(const metrics::RestorationMeans& means) {
  return {{"count", means.count},
          {"identical", means.identical},
          {"psnr", number_json(means.psnr)},
          {"ssim", number_json(means.ssim)},
          {"sharpness", number_json(means.sharpness)}};
}

std::string number_or_dash(double value, int digits) {
  char text[48];
  if (std::isnan(value)) return "-";
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

}  // namespace mote::apps
