#include "apps/compare.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "apps/common.h"
#include "apps/svg.h"
#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/safetensors.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "mote-compare-1";
constexpr int64_t kMostBytes = 1 << 20;  // of a cell's file

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

/// All cells of one sampler and number of steps.
struct Row {
  std::string sampler;
  int64_t steps = 0, calls = 0;
  std::vector<const Cell*> cells;

  std::vector<double> values(const std::string& key) const {
    std::vector<double> all;
    for (const Cell* cell : cells)
      if (cell->is_done && cell->scores.count(key)) all.push_back(cell->scores.at(key));
    return all;
  }
  /// Why there are no numbers; empty if there are some.
  std::string trouble() const {
    std::string reason = "not drawn yet";
    for (const Cell* cell : cells) {
      if (cell->is_done) return "";
      if (!cell->reason().empty()) reason = concat_text(cell->state(), ": ", cell->reason());
    }
    return reason;
  }
};

std::vector<Row> rows_of(const Comparison& comparison) {
  std::vector<Row> rows;
  for (const Cell& cell : comparison.cells) {
    if (rows.empty() || rows.back().sampler != cell.sampler || rows.back().steps != cell.steps)
      rows.push_back({cell.sampler, cell.steps, cell.calls, {}});
    rows.back().cells.push_back(&cell);
  }
  return rows;
}

struct Spread {
  double mean = NAN, std = NAN;  // std: of the sample; NaN for fewer than two values
};

Spread spread(const std::vector<double>& values) {
  Spread result;
  if (values.empty()) return result;
  double sum = 0, squares = 0;
  for (double value : values) sum += value;
  result.mean = sum / double(values.size());
  for (double value : values) squares += (value - result.mean) * (value - result.mean);
  if (values.size() > 1) result.std = std::sqrt(squares / double(values.size() - 1));
  return result;
}

std::string spread_text(const std::vector<double>& values) {
  Spread s = spread(values);
  if (std::isnan(s.mean)) return "-";
  return short_number(s.mean) + (std::isnan(s.std) ? "" : " +- " + short_number(s.std));
}

std::string floor_value(const Comparison& comparison, const std::string& key) {
  auto found = comparison.floor.scores.find(key);
  return found == comparison.floor.scores.end() ? "-" : short_number(found->second);
}

/// Those with a finished cell: a curve without points would be no path.
std::vector<std::string> samplers_of(const Comparison& comparison) {
  std::vector<std::string> names;
  for (const Cell& cell : comparison.cells)
    if (cell.is_done && std::find(names.begin(), names.end(), cell.sampler) == names.end())
      names.push_back(cell.sampler);
  return names;
}

Json scores_json(const Scores& scores) {
  Json json = Json::object();
  for (const auto& [key, value] : scores) json[key] = value;
  return json;
}

}  // namespace

std::string Cell::name() const { return concat_text(sampler, "-", steps, "-seed", seed); }

const char* Cell::state() const {
  if (is_done) return "done";
  if (!refused.empty()) return "refused";
  return failed.empty() ? "open" : "failed";
}

// ---- The store -----------------------------------------------------------------------------------------------------

namespace {

std::string cell_path(const std::string& folder, const std::string& name) {
  return folder + "/cells/" + name + ".json";
}

std::string part_path(const std::string& folder, const Cell& cell) {
  return folder + "/cells/" + cell.name() + ".part.safetensors";
}

/// Throws unless all of `settings` stands in `stored`.
void require_same(const std::string& path, const Json& stored, const Json& settings) {
  std::string differences;
  for (const auto& [key, value] : settings.items())
    if (Json before = stored.value(key, Json()); before != value)
      differences += concat_text("\n  ", key, ": stored ", before.dump(), ", now ", value.dump());
  if (!differences.empty())
    fail(Error::Kind::usage, path,
         ": this cell was made with other settings; give --overwrite to draw all cells anew, or --out "
         "with another folder:",
         differences);
}

std::string text_of(Json& json, const char* key) { return json[key].is_string() ? json[key].get<std::string>() : ""; }

Scores scores_of(Json& json) {
  Scores scores;
  for (const auto& [key, value] : json["scores"].items())
    if (value.is_number()) scores[key] = value.get<double>();
  return scores;
}

}  // namespace

void CellStore::clear() const {
  std::error_code error;
  for (fs::directory_iterator at(folder_ + "/cells", error), end; !error && at != end; at.increment(error))
    if (at->path().extension() == ".json" || at->path().string().ends_with(".part.safetensors")) fs::remove(at->path());
}

PartOfCell CellStore::load_part(const Cell& cell, const Json& settings) const {
  std::string path = part_path(folder_, cell);
  if (!fs::exists(path)) return {};
  io::Safetensors file = io::load_safetensors(path);
  Json stored = Json::parse(file.metadata["settings"], nullptr, false);
  auto images = file.tensors.find("images");
  if (!stored.is_object() || images == file.tensors.end() || images->second.dtype() != DType::u8)
    fail(Error::Kind::data, path, ": is no part of a cell of mote compare; remove it, or give --overwrite");
  require_same(path, stored, settings);
  return {images->second, std::strtod(file.metadata["seconds"].c_str(), nullptr)};
}

void CellStore::save_part(const Cell& cell, const PartOfCell& part, const Json& settings) const {
  make_folder();
  io::save_safetensors(part_path(folder_, cell), {{"images", part.images}},
                       {{"settings", settings.dump()}, {"seconds", number_text(part.seconds)}});
}

void CellStore::remove_part(const Cell& cell) const { fs::remove(part_path(folder_, cell)); }

CellStore::Json CellStore::read(const std::string& path, const Json& settings) const {
  io::Bytes bytes = io::read_file(path, kMostBytes);
  Json json = Json::parse(bytes.begin(), bytes.end(), nullptr, false);
  if (!json.is_object() || json["format"] != kFormat || !json["settings"].is_object() || !json["scores"].is_object())
    fail(Error::Kind::data, path, ": is no finished cell of mote compare; remove it, or give --overwrite");
  require_same(path, json["settings"], settings);
  return json;
}

void CellStore::make_folder() const {
  std::error_code error;
  fs::create_directories(folder_ + "/cells", error);
  if (error) fail(Error::Kind::resource, "cannot make ", folder_, "/cells: ", error.message());
}

void CellStore::write(const std::string& name, const Json& json) const {
  make_folder();
  io::write_file_atomic(cell_path(folder_, name), json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void CellStore::load(Cell& cell, const Json& settings) const {
  std::string path = cell_path(folder_, cell.name());
  if (!fs::exists(path)) return;
  Json json = read(path, settings);
  cell.seconds = json["seconds"].is_number() ? json["seconds"].get<double>() : 0;
  cell.failed = text_of(json, "failed");
  cell.is_done = cell.failed.empty();
  cell.scores = scores_of(json);
}

void CellStore::load(Floor& floor, const Json& settings) const {
  std::string path = cell_path(folder_, "floor");
  if (!fs::exists(path)) return;
  Json json = read(path, settings);
  floor.how = text_of(json, "compares");
  floor.count = json["count"].is_number() ? json["count"].get<int64_t>() : 0;
  floor.is_done = true;
  floor.scores = scores_of(json);
}

void CellStore::save(const Cell& cell, const Json& settings) const {
  Json json = {{"format", kFormat}, {"sampler", cell.sampler},     {"steps", cell.steps},
               {"seed", cell.seed}, {"network_calls", cell.calls}, {"seconds", cell.seconds}};
  if (!cell.failed.empty()) json["failed"] = cell.failed;
  json["scores"] = scores_json(cell.scores);
  json["settings"] = settings;
  write(cell.name(), json);
}

void CellStore::save(const Floor& floor, const Json& settings) const {
  write("floor", {{"format", kFormat},
                  {"compares", floor.how},
                  {"count", floor.count},
                  {"scores", scores_json(floor.scores)},
                  {"settings", settings}});
}

// ---- Text ----------------------------------------------------------------------------------------------------------

std::string table_text(const Comparison& comparison) {
  std::vector<std::vector<std::string>> lines = {{"sampler", "steps", "calls"}};
  for (const Metric& metric : comparison.metrics)
    lines[0].push_back(score_name(comparison.features, metric, comparison.count));
  std::vector<std::string> notes = {""};
  for (const Row& row : rows_of(comparison)) {
    lines.push_back({row.sampler, std::to_string(row.steps), row.calls > 0 ? std::to_string(row.calls) : "-"});
    notes.push_back(row.trouble());
    for (const Metric& metric : comparison.metrics)
      lines.back().push_back(notes.back().empty() ? spread_text(row.values(metric.key)) : "-");
  }
  lines.push_back({"floor", "-", "-"});
  notes.push_back(concat_text(comparison.floor.how, ", ", count_text(comparison.floor.count), " images each"));
  for (const Metric& metric : comparison.metrics) lines.back().push_back(floor_value(comparison, metric.key));

  std::vector<size_t> widths(lines[0].size(), 0);
  for (const auto& line : lines)
    for (size_t column = 0; column < line.size(); ++column)
      widths[column] = std::max(widths[column], line[column].size());
  std::string text;
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string line = lines[i][0] + std::string(widths[0] - lines[i][0].size(), ' ');
    for (size_t column = 1; column < lines[i].size(); ++column)
      line += "  " + std::string(widths[column] - lines[i][column].size(), ' ') + lines[i][column];
    text += line + (notes[i].empty() ? "" : "  " + notes[i]) + "\n";
  }
  return text;
}

namespace {

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char letter : text)
    quoted += letter == '"' ? std::string("\"\"") : std::string(1, letter == '\n' ? ' ' : letter);
  return quoted + "\"";
}

}  // namespace

std::string csv_text(const Comparison& comparison) {
  std::string text = "sampler,steps,seed,network_calls,images,state,seconds";
  for (const Metric& metric : all_metrics()) text += "," + score_name(comparison.features, metric, comparison.count);
  text += ",KID_std,reason\n";
  auto line = [&](const std::string& front, const Scores& scores, const std::string& reason) {
    text += front;
    auto add = [&](const std::string& key) {
      auto found = scores.find(key);
      text += "," + (found == scores.end() ? "" : number_text(found->second));
    };
    for (const Metric& metric : all_metrics()) add(metric.key);
    add("kid_std");
    text += "," + csv_field(reason) + "\n";
  };
  for (const Cell& cell : comparison.cells) {
    line(concat_text(cell.sampler, ",", cell.steps, ",", cell.seed, ",", cell.calls, ",", comparison.count, ",",
                     cell.state(), ",", number_text(cell.seconds)),
         cell.scores, cell.reason());
  }
  if (comparison.floor.is_done)
    line(concat_text("floor,,,,", comparison.floor.count, ",done,"), comparison.floor.scores, comparison.floor.how);
  return text;
}

nlohmann::ordered_json to_json(const Comparison& comparison) {
  Json json = {{"features", comparison.features}, {"count", comparison.count}, {"metrics", Json::object()}};
  for (const Metric& metric : comparison.metrics)
    json["metrics"][metric.key] = score_name(comparison.features, metric, comparison.count);
  json["floor"] = {{"compares", comparison.floor.how},
                   {"count", comparison.floor.count},
                   {"values", scores_json(comparison.floor.scores)}};
  json["cells"] = Json::array();
  for (const Cell& cell : comparison.cells) {
    Json entry = {{"sampler", cell.sampler}, {"steps", cell.steps}, {"seed", cell.seed}, {"network_calls", cell.calls}};
    entry["state"] = cell.state();
    if (!cell.reason().empty()) entry["reason"] = cell.reason();
    if (cell.is_done) entry["seconds"] = cell.seconds;
    if (cell.is_done) entry["values"] = scores_json(cell.scores);
    json["cells"].push_back(entry);
  }
  return json;
}

// ---- Curves --------------------------------------------------------------------------------------------------------

namespace {

// Colours that stay apart for most colour-blind readers; the floor is grey and dashed. A page overrides text and rules.
constexpr const char* kColours[] = {"#1f6fb2", "#d9570b", "#2a9d57", "#b83280", "#7a5cc7", "#c2980c",
                                    "#17a2b8", "#9c2f2f", "#5c6b1e", "#e377c2", "#3d3d8f", "#8c564b"};
constexpr size_t kColourCount = std::size(kColours);
constexpr double kPlotWidth = 640, kPlotHeight = 260, kLegendLine = 18;  // of svg_plot's view box

std::string colour_style(size_t samplers) {
  std::string style = "svg path { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }\n";
  for (size_t k = 0; k < samplers; ++k)
    style += concat_text("svg .line", k, " { stroke: ", kColours[k % kColourCount],
                         k < kColourCount ? "" : "; stroke-dasharray: 6 4", "; }\n");
  return style + concat_text("svg .line", samplers, " { stroke: #8a929a; stroke-dasharray: 2 4; }\n");
}

/// One metric: a line a sampler and, last, the floor. The legend is the caller's: a dozen names do not fit in a title
/// line.
Plot plot_of(const Comparison& comparison, const Metric& metric) {
  Plot plot{score_name(comparison.features, metric, comparison.count), "network calls an image", {}, metric.log};
  double least = INFINITY, most = -INFINITY;
  for (const std::string& sampler : samplers_of(comparison)) {
    std::vector<std::pair<double, double>> points;
    for (const Row& row : rows_of(comparison)) {
      if (row.sampler != sampler || row.values(metric.key).empty()) continue;
      points.emplace_back(double(row.calls), spread(row.values(metric.key)).mean);
    }
    std::sort(points.begin(), points.end());
    Series series{"", {}, {}};
    for (auto [calls, value] : points) {
      series.x.push_back(calls);
      series.y.push_back(value);
      least = std::min(least, calls);
      most = std::max(most, calls);
    }
    plot.series.push_back(series);
  }
  plot.log_x = most > 10 * least;  // 1000 steps would leave no room for 5, 10 and 20
  auto floor = comparison.floor.scores.find(metric.key);
  if (floor != comparison.floor.scores.end() && least <= most)
    plot.series.push_back({"", {least, std::max(most, least + 1)}, {floor->second, floor->second}});
  return plot;
}

std::vector<std::string> legend_names(const Comparison& comparison) {
  std::vector<std::string> names = samplers_of(comparison);
  names.push_back("floor");
  return names;
}

}  // namespace

std::string svg_text(const Comparison& comparison) {
  constexpr size_t kPerLine = 6;
  std::vector<std::string> names = legend_names(comparison);
  double legend = kLegendLine * double((names.size() + kPerLine - 1) / kPerLine) + 10;
  double height = kPlotHeight * double(comparison.metrics.size()) + legend;
  std::string svg = concat_text(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", kPlotWidth, " ", height, "\" width=\"", kPlotWidth,
      "\" height=\"", height, "\">\n<style>\n",
      "text { font: 12px sans-serif; fill: #68727d; } text.title { font-size: 13px; font-weight: 600; "
      "fill: #1d2329; }\n.grid { stroke: #e3e6e9; } .axis { stroke: #68727d; }\n",
      colour_style(names.size() - 1), "</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
  for (size_t k = 0; k < names.size(); ++k) {
    double x = 16 + 104 * double(k % kPerLine), y = 14 + kLegendLine * double(k / kPerLine);
    svg += concat_text("<path class=\"line", k, "\" d=\"M", x, " ", y, "h16\"/><text x=\"", x + 21, "\" y=\"", y + 4,
                       "\">", escape_html(names[k]), "</text>\n");
  }
  for (size_t k = 0; k < comparison.metrics.size(); ++k) {
    std::string plot = svg_plot(plot_of(comparison, comparison.metrics[k]));
    double top = legend + kPlotHeight * double(k);
    if (!plot.starts_with("<svg")) {  // nothing to plot: a paragraph, which is no SVG
      svg += concat_text("<text class=\"title\" x=\"64\" y=\"", top + 18, "\">",
                         escape_html(score_name(comparison.features, comparison.metrics[k], comparison.count)),
                         ": nothing to plot yet</text>\n");
      continue;
    }
    // An inner <svg> fills the outer one, which is at least as high as it, and stands in its middle.
    svg += concat_text("<g transform=\"translate(0 ", top - (height - kPlotHeight) / 2, ")\">\n", plot, "</g>\n");
  }
  return svg + "</svg>\n";
}

// ---- The page ------------------------------------------------------------------------------------------------------

std::string html_text(const Comparison& comparison) {
  std::vector<std::string> names = legend_names(comparison);
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
      escape_html(comparison.title) +
      " - samplers compared - mote</title>\n<style>\n"
      ":root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1d2329; --soft: #68727d; --rule: "
      "#e3e6e9; }\n"
      "@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1c2024; --ink: #e6e9ec; --soft: "
      "#98a2ad;\n"
      "  --rule: #30363c; } }\n"
      "* { box-sizing: border-box; }\n"
      "body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 74rem; background: var(--page); color: "
      "var(--ink);\n"
      "  font: 15px/1.5 system-ui, sans-serif; }\n"
      "h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .7rem; "
      "}\n"
      "p.sub, p.none, .soft { color: var(--soft); }\n"
      ".plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: .9rem; }\n"
      ".plots svg { width: 100%; height: auto; display: block; background: var(--card); border: 1px solid "
      "var(--rule);\n"
      "  border-radius: .5rem; }\n"
      ".legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .7rem 0; }\n"
      ".legend svg { width: 24px; height: 8px; margin-right: .4rem; }\n"
      ".scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }\n"
      "th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }\n"
      "th:first-child, td:first-child, td.reason { text-align: left; } td.reason { color: var(--soft); white-space: "
      "normal; }\n"
      "dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; } dt { color: var(--soft); }\n"
      "dd { margin: 0; overflow-wrap: anywhere; }\n"
      "svg text { font: 12px system-ui, sans-serif; fill: var(--soft); } svg text.title { font-size: 13px; "
      "font-weight: 600;\n"
      "  fill: var(--ink); }\nsvg .grid { stroke: var(--rule); } svg .axis { stroke: var(--soft); }\n" +
      colour_style(names.size() - 1) + "</style>\n</head>\n<body>\n<h1>" + escape_html(comparison.title) +
      "</h1>\n<p class=\"sub\">Quality against network calls</p>\n<div class=\"legend\">\n";
  for (size_t k = 0; k < names.size(); ++k)
    html += concat_text("<span><svg viewBox=\"0 0 24 8\"><path class=\"line", k, "\" d=\"M2 4h20\"/></svg>",
                        escape_html(names[k]), "</span>\n");
  html += "</div>\n<div class=\"plots\">\n";
  for (const Metric& metric : comparison.metrics) html += svg_plot(plot_of(comparison, metric));
  html +=
      "</div>\n<h2>Table</h2>\n<div class=\"scroll\"><table>\n<tr><th>sampler</th><th>steps</th><th>network calls</th>";
  for (const Metric& metric : comparison.metrics)
    html += "<th>" + escape_html(score_name(comparison.features, metric, comparison.count)) + "</th>";
  html += "</tr>\n";
  for (const Row& row : rows_of(comparison)) {
    html += concat_text("<tr><td>", escape_html(row.sampler), "</td><td>", row.steps, "</td><td>",
                        row.calls > 0 ? std::to_string(row.calls) : "-", "</td>");
    std::string trouble = row.trouble();
    if (!trouble.empty()) {
      html += concat_text("<td class=\"reason\" colspan=\"", comparison.metrics.size(), "\">", escape_html(trouble),
                          "</td></tr>\n");
      continue;
    }
    for (const Metric& metric : comparison.metrics)
      html += "<td>" + escape_html(spread_text(row.values(metric.key))) + "</td>";
    html += "</tr>\n";
  }
  html += "<tr class=\"soft\"><td>floor</td><td>-</td><td>-</td>";
  for (const Metric& metric : comparison.metrics)
    html += "<td>" + escape_html(floor_value(comparison, metric.key)) + "</td>";
  html += concat_text("</tr>\n</table></div>\n<p class=\"sub\">The floor is what real images score: ",
                      escape_html(comparison.floor.how), ", ", count_text(comparison.floor.count),
                      " images each. Over several seeds: mean +- standard deviation.</p>\n<h2>Metrics</h2>\n<dl>\n");
  for (const Metric& metric : comparison.metrics)
    html += "<dt>" + escape_html(metric.title) + "</dt><dd>" + escape_html(metric.about) + "</dd>\n";
  html += "</dl>\n<h2>How it was made</h2>\n<dl>\n";
  for (const auto& [name, value] : comparison.facts)
    html += "<dt>" + escape_html(name) + "</dt><dd>" + escape_html(value) + "</dd>\n";
  return html + "</dl>\n</body>\n</html>\n";
}

}  // namespace mote::apps
