// run_log.h - log.jsonl of a run, for the reports of trainings that have records of two kinds; numbers as JSON has them.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace mote::apps {

struct RunLog {
  std::vector<nlohmann::json> training, others;   // in order; the others have the key that was asked for
  int64_t bad_lines = 0;                          // that are no records
};

/// Reads a log.jsonl; empty if there is none. Records with the key `other` are apart.
RunLog read_run_log(const std::string& path, const char* other);

/// A number, null where it is not finite: JSON has no other word for it.
nlohmann::ordered_json number_json(double value);
/// The number under `key` in a record, or in each of them; NAN where there is none.
double number_of(const nlohmann::json& record, const char* key);
std::vector<double> column(const std::vector<nlohmann::json>& records, const char* key);

}  // namespace mote::apps
