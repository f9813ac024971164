// segment_report.h - report.html of a run of `mote segment train-e2e` or `train-ddpm` (that of `mote train` is
// report.h).
#pragma once
#include <string>

namespace mote::apps {

/// Writes FOLDER/report.html atomically and returns its path. Throws Error(data) if the folder is not a run,
/// Error(resource) if it cannot be written.
std::string write_segment_report(const std::string& folder);

}  // namespace mote::apps
