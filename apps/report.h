// report.h - report.html of a run: one file without any reference outside, with curves (inline SVG), sample grids
// (data: URIs), the numbers and the configuration. Reads what lies in the run folder, nothing else.
#pragma once
#include <functional>
#include <string>

#include "apps/page.h"

namespace mote::apps {

/// Writes FOLDER/report.html atomically and returns its path. Parts that are missing (no log yet, no grid) are left
/// out and said so. Throws Error(data) if the folder is not a run, Error(resource) if it cannot be written.
std::string write_report(const std::string& folder);

/// The same for a run of another kind: `what` it is, in a line, and `numbers`, which adds those of its checkpoint; an
/// Error that it throws is noted on the page.
std::string write_report(const std::string& folder, const std::string& what, const std::function<void(Page&)>& numbers);

}  // namespace mote::apps
