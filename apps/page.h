// page.h - an HTML page without any reference outside: headings, numbers, tables, pictures as data: URIs, plots as inline
// SVG (svg.h). The reports of runs are made of it.
#pragma once
#include <string>
#include <vector>

namespace mote::apps {

class Page {
 public:
  explicit Page(const std::string& title);
  void html(const std::string& part) { text_ += part; }   // as it is
  void heading(const std::string& title);
  void note(const std::string& text);
  /// One card; cards stand inside <div class="numbers">.
  void number(const std::string& name, const std::string& value);
  /// The PNG in `file` with a caption. Throws Error(data) if it cannot be read.
  void figure(const std::string& file, const std::string& style, const std::string& alt, const std::string& caption);
  /// Rows of cells, the first one being the head.
  void table(const std::vector<std::vector<std::string>>& rows);
  std::string finish() { return text_ + "</body>\n</html>\n"; }

 private:
  std::string text_;
};

std::string short_number(double value);               // four digits
std::string read_text(const std::string& path);       // "" if there is no such file
/// The name of a run: the last part of its folder's path.
std::string run_name(const std::string& folder);

/// Ends the report of a run: adds its config.toml, writes FOLDER/report.html atomically and returns its path.
std::string write_page(Page& page, const std::string& folder);

}  // namespace mote::apps
