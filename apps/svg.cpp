#include "apps/svg.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace mote::apps {
namespace {

constexpr double kWidth = 640, kHeight = 260, kLeft = 64, kRight = 18, kTop = 30, kBottom = 36;

std::string format(const char* pattern, double a) {
  char text[64];
  std::snprintf(text, sizeof text, pattern, a);
  return text;
}

std::string tick_text(double value) {
  double size = std::abs(value);
  if (size != 0 && (size < 1e-3 || size >= 1e7)) return format("%.0e", value);
  if (size >= 1000 && size == std::floor(size)) return format("%.0f", value);
  return format("%.4g", value);
}

struct Axis {
  double low = INFINITY, high = -INFINITY;
  bool log = false;
  bool takes(double value) const { return std::isfinite(value) && (!log || value > 0); }
  void cover(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  /// 0 at low, 1 at high.
  double at(double value) const {
    if (log) return (std::log10(value) - std::log10(low)) / (std::log10(high) - std::log10(low));
    return (value - low) / (high - low);
  }
};

std::vector<double> log_ticks(double low, double high) {
  std::vector<double> ticks;
  for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10)
    for (double digit : {1.0, 2.0, 5.0})
      if (power * digit >= low && power * digit <= high) ticks.push_back(power * digit);
  if (ticks.size() > 8) std::erase_if(ticks, [](double tick) { return format("%.0e", tick)[0] != '1'; });
  return ticks;
}

/// Not more points than pixels: the mean of each bucket.
Series thinned(const Series& series, size_t most) {
  size_t count = std::min(series.x.size(), series.y.size());
  if (count <= most) return series;
  Series thin{series.name, {}, {}};
  for (size_t bucket = 0; bucket < most; ++bucket) {
    size_t begin = bucket * count / most, end = (bucket + 1) * count / most;
    double x = 0, y = 0;
    for (size_t i = begin; i < end; ++i) {
      x += series.x[i];
      y += series.y[i];
    }
    thin.x.push_back(x / double(end - begin));
    thin.y.push_back(y / double(end - begin));
  }
  return thin;
}

std::string line(double x1, double y1, double x2, double y2, const char* style) {
  char text[160];
  std::snprintf(text, sizeof text, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", style, x1, y1,
                x2, y2);
  return text;
}

std::string words(double x, double y, const char* anchor, const char* style, const std::string& content) {
  char front[120];
  std::snprintf(front, sizeof front, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", style, x, y, anchor);
  return front + escape_html(content) + "</text>\n";
}

}  // namespace

std::string escape_html(const std::string& text) {
  std::string escaped;
  for (char letter : text) {
    switch (letter) {
      case '&': escaped += "&amp;"; break;
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '"': escaped += "&quot;"; break;
      case '\'': escaped += "&#39;"; break;
      default: escaped += letter;
    }
  }
  return escaped;
}

std::vector<double> nice_ticks(double low, double high, int count) {
  if (!(high > low)) return {low};
  double rough = (high - low) / count, power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough * 0.999) {
      step = factor * power;
      break;
    }
  std::vector<double> ticks;
  for (auto i = int64_t(std::ceil(low / step - 1e-9)); double(i) * step <= high + 1e-9 * step; ++i)
    ticks.push_back(double(i) * step);
  return ticks;
}

std::string svg_plot(const Plot& plot) {
  Axis x, y;
  x.log = plot.log_x;
  y.log = plot.log_y;
  for (const Series& series : plot.series)
    for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i)
      if (x.takes(series.x[i]) && y.takes(series.y[i])) {
        x.cover(series.x[i]);
        y.cover(series.y[i]);
      }
  if (!(x.low <= x.high)) return "<p class=\"none\">" + escape_html(plot.title) + ": nothing to plot yet.</p>\n";
  if (x.low == x.high) x.cover(x.low + 1);
  if (y.log) {
    y.low /= 1.05;
    y.high *= 1.05;
  } else {
    if (y.low > 0 && y.low < 0.6 * y.high) y.low = 0;   // a curve that falls by half should look like half
    double room = y.high > y.low ? 0.05 * (y.high - y.low) : std::max(std::abs(y.high), 1e-12) * 0.1;
    y.high += room;
    if (y.low != 0) y.low -= room;
  }

  double width = kWidth - kLeft - kRight, height = kHeight - kTop - kBottom;
  auto px = [&](double value) { return kLeft + width * x.at(value); };
  auto py = [&](double value) { return kTop + height * (1 - y.at(value)); };

  std::string svg = "<svg viewBox=\"0 0 640 260\" role=\"img\" aria-label=\"" + escape_html(plot.title) + "\">\n";
  svg += words(kLeft, 18, "start", "title", plot.title);
  for (double tick : y.log ? log_ticks(y.low, y.high) : nice_ticks(y.low, y.high, 5)) {
    svg += line(kLeft, py(tick), kWidth - kRight, py(tick), "grid");
    svg += words(kLeft - 6, py(tick) + 4, "end", "label", tick_text(tick));
  }
  for (double tick : x.log ? log_ticks(x.low, x.high) : nice_ticks(x.low, x.high, 7)) {
    svg += line(px(tick), kHeight - kBottom, px(tick), kHeight - kBottom + 4, "axis");
    svg += words(px(tick), kHeight - kBottom + 17, "middle", "label", tick_text(tick));
  }
  svg += line(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "axis");
  svg += words(kWidth - kRight, kHeight - 4, "end", "label", plot.x_label);

  double legend = kWidth - kRight;
  for (size_t k = plot.series.size(); k-- > 0;) {
    if (plot.series[k].name.empty()) continue;
    svg += words(legend, 18, "end", "label", plot.series[k].name);
    legend -= 7.0 * double(plot.series[k].name.size()) + 6;
    std::string style = "line" + std::to_string(k);
    svg += line(legend - 14, 14, legend, 14, style.c_str());
    legend -= 26;
  }
  for (size_t k = 0; k < plot.series.size(); ++k) {
    Series thin = thinned(plot.series[k], size_t(width));
    std::string path;
    bool pen_up = true;
    for (size_t i = 0; i < std::min(thin.x.size(), thin.y.size()); ++i) {
      if (!x.takes(thin.x[i]) || !y.takes(thin.y[i])) {
        pen_up = true;
        continue;
      }
      char point[48];
      std::snprintf(point, sizeof point, "%c%.1f %.1f", pen_up ? 'M' : 'L', px(thin.x[i]), py(thin.y[i]));
      path += point;
      pen_up = false;
    }
    if (path.empty()) continue;
    // A lone point has no length; round line ends make it a dot.
    if (path.find('L') == std::string::npos) path += "h0.01";
    svg += "<path class=\"line" + std::to_string(k) + "\" d=\"" + path + "\"/>\n";
  }
  return svg + "</svg>\n";
}

}  // namespace mote::apps
