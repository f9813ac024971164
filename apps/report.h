// report.h - report.html of a run: one file without any reference outside, with curves (inline SVG), sample grids
// (data: URIs), the numbers and the configuration. Reads what lies in the run folder, nothing else.
#pragma once
#include <string>

namespace mote::apps {

/// Writes FOLDER/report.html atomically and returns its path. Parts that are missing (no log yet, no grid) are left
/// out and said so. Throws Error(data) if the folder is not a run, Error(resource) if it cannot be written.
std::string write_report(const std::string& folder);

}  // namespace mote::apps
