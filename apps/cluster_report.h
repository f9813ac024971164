// cluster_report.h - report.html of a clustering run (report.h): how F_lambda and, where there are labels, the scores went,
// the clusters' weights, a row of samples a cluster, the curves of training, the configuration.
#pragma once
#include <string>

namespace mote::apps {

/// Whether the checkpoint in a run folder is one of `mote cluster train`.
bool is_cluster_run(const std::string& folder);

/// Writes FOLDER/report.html atomically and returns its path. Parts that are missing are left out and said so. Throws
/// Error(data) if there is no such folder, Error(resource) if it cannot be written.
std::string write_cluster_report(const std::string& folder);

}  // namespace mote::apps
