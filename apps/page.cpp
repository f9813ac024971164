#include "apps/page.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "apps/svg.h"
#include "tensor/error.h"
#include "tensor/io/file.h"

namespace mote::apps {
namespace {

constexpr int64_t kMostPictureBytes = 8 << 20;

std::string base64(const io::Bytes& bytes) {
  const char* letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    size_t left = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = uint32_t(bytes[i]) << 16;
    if (left > 1) group |= uint32_t(bytes[i + 1]) << 8;
    if (left > 2) group |= bytes[i + 2];
    for (size_t k = 0; k < 4; ++k) text += k <= left ? letters[group >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

const char* kStyle = R"(
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1d2329; --soft: #68727d; --rule: #e3e6e9;
  --raw: #b9d3ea; --main: #1f6fb2; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1c2024; --ink: #e6e9ec; --soft: #98a2ad;
  --rule: #30363c; --raw: #2f4f6b; --main: #6db3f2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 74rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .7rem; }
p.sub { color: var(--soft); margin: .2rem 0 1.2rem; } p.none { color: var(--soft); }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .7rem; }
.numbers div, .plots svg, figure, pre { background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; }
.numbers div { padding: .6rem .8rem; } .numbers b { display: block; font-size: 1.15rem; font-weight: 600;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; } .numbers span { color: var(--soft); font-size: .82rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: .9rem; }
.plots svg { width: 100%; height: auto; display: block; }
.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr)); gap: .9rem; }
figure { margin: 0; padding: .7rem; } figure img { width: 100%; display: block; image-rendering: pixelated; }
figure.last { max-width: 34rem; margin-bottom: .9rem; } figcaption { color: var(--soft); font-size: .82rem; margin-top: .4rem; }
pre { padding: .8rem 1rem; overflow-x: auto; font: 13px/1.45 ui-monospace, monospace; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); } svg text.title { font-size: 13px; font-weight: 600;
  fill: var(--ink); } svg path { fill: none; stroke-linejoin: round; stroke-linecap: round; stroke-width: 1.6; }
svg .line0 { stroke: var(--main); } svg .line1 { stroke: var(--main); }
svg line.line0, svg line.line1 { stroke-width: 3; } .loss svg .line0 { stroke: var(--raw); }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } td, th { padding: .25rem .8rem; text-align: right;
  border-bottom: 1px solid var(--rule); } td:first-child, th:first-child { text-align: left; }
)";

}  // namespace

Page::Page(const std::string& title) {
  text_ = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" + escape_html(title) +
          " - mote</title>\n<style>" + kStyle + "</style>\n</head>\n<body>\n<h1>" + escape_html(title) + "</h1>\n";
}

void Page::heading(const std::string& title) { text_ += "<h2>" + escape_html(title) + "</h2>\n"; }

void Page::note(const std::string& text) { text_ += "<p class=\"none\">" + escape_html(text) + "</p>\n"; }

void Page::number(const std::string& name, const std::string& value) {
  text_ += "<div><b>" + escape_html(value) + "</b><span>" + escape_html(name) + "</span></div>\n";
}

void Page::figure(const std::string& file, const std::string& style, const std::string& alt, const std::string& caption) {
  text_ += "<figure class=\"" + style + "\"><img alt=\"" + escape_html(alt) + "\" src=\"data:image/png;base64," +
           base64(io::read_file(file, kMostPictureBytes)) + "\"><figcaption>" + escape_html(caption) +
           "</figcaption></figure>\n";
}

void Page::table(const std::vector<std::vector<std::string>>& rows) {
  text_ += "<table>\n";
  for (size_t row = 0; row < rows.size(); ++row) {
    const char* cell = row == 0 ? "th" : "td";
    text_ += "<tr>";
    for (const std::string& value : rows[row]) text_ += concat_text("<", cell, ">", escape_html(value), "</", cell, ">");
    text_ += "</tr>\n";
  }
  text_ += "</table>\n";
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

std::string read_text(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string run_name(const std::string& folder) {
  namespace fs = std::filesystem;
  std::string name = fs::path(folder).lexically_normal().filename().string();
  return name.empty() || name == "." ? fs::absolute(folder).lexically_normal().parent_path().filename().string() : name;
}

std::string write_page(Page& page, const std::string& folder) {
  page.heading("Configuration");
  std::string config = read_text(folder + "/config.toml");
  if (config.empty()) page.note("config.toml is missing.");
  else page.html("<pre>" + escape_html(config) + "</pre>\n");
  std::string path = folder + "/report.html";
  io::write_file_atomic(path, page.finish());
  return path;
}

}  // namespace mote::apps
