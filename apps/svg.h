// svg.h - line plots as inline SVG text. Colours come from the page's CSS (classes line0, line1, axis, grid, label), so
// that a plot follows a dark page.
#pragma once
#include <string>
#include <vector>

namespace mote::apps {

struct Series {
  std::string name;             // in the legend; empty: none
  std::vector<double> x, y;     // equally long; points that are not finite break the line
};

struct Plot {
  std::string title, x_label;
  std::vector<Series> series;   // drawn in this order
  bool log_y = false;           // values that are not positive are left out
  bool log_x = false;
};

/// An <svg> element, or a paragraph saying that there is nothing to plot.
std::string svg_plot(const Plot& plot);

/// Tick positions at 1, 2 or 5 times a power of ten, about `count` of them, inside low..high.
std::vector<double> nice_ticks(double low, double high, int count);

/// & < > " ' written as entities: user text inside HTML and SVG.
std::string escape_html(const std::string& text);

}  // namespace mote::apps
