#include "apps/run_log.h"

#include <cmath>
#include <fstream>

namespace mote::apps {

RunLog read_run_log(const std::string& path, const char* other) {
  RunLog log;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    nlohmann::json record = nlohmann::json::parse(line, nullptr, false);
    if (!record.is_object() || !record.contains("step")) ++log.bad_lines;
    else (record.contains(other) ? log.others : log.training).push_back(std::move(record));
  }
  return log;
}

nlohmann::ordered_json number_json(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

double number_of(const nlohmann::json& record, const char* key) {
  auto found = record.find(key);
  return found != record.end() && found->is_number() ? found->get<double>() : NAN;
}

std::vector<double> column(const std::vector<nlohmann::json>& records, const char* key) {
  std::vector<double> values;
  for (const nlohmann::json& record : records) values.push_back(number_of(record, key));
  return values;
}

}  // namespace mote::apps
