#include "apps/common.h"

#include <omp.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "tensor/cuda/backend.h"
#include "tensor/error.h"
#include "tensor/tf32.h"

namespace mote::apps {
namespace {

std::string command_line_text;

/// Line of the file on which `key` is set, for messages; 0 if it is not found.
int line_of_key(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    size_t begin = line.find_first_not_of(" \t\"'");
    if (begin != std::string::npos && line.compare(begin, key.size(), key) == 0) return number;
  }
  return 0;
}

std::vector<std::string> long_options(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back(name);
  return names;
}

bool is_other_command(const CLI::App& command, const std::string& section) {
  if (section == command.get_name() || !command.get_parent()) return false;
  for (const CLI::App* other : command.get_parent()->get_subcommands([](const CLI::App*) { return true; }))
    if (other->get_name() == section) return true;
  return false;
}

/// CLI11 reads a config file for the top application only, and accepts unknown keys; this fills one command.
/// Keys stand at the top of the file or in a section named like the command; sections of other commands are skipped.
void apply_config(CLI::App& command, const std::string& path) {
  if (path.empty()) return;
  if (std::filesystem::is_directory(path))
    fail(Error::Kind::usage, "--config: '", path, "' is a folder; give a TOML file");
  if (access(path.c_str(), R_OK) != 0)
    fail(Error::Kind::usage, "--config: cannot read '", path, "': ", std::strerror(errno));
  std::set<std::string> seen;
  for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_file(path)) {
    if (item.name == "++" || item.name == "--") continue;   // a section opens or closes
    if (!item.parents.empty()) {
      if (is_other_command(command, item.parents[0])) continue;
      if (item.parents.size() > 1 || item.parents[0] != command.get_name())
        fail(Error::Kind::usage, path, ": unknown section [", joined(item.parents, "."), "]; 'mote ",
             command.get_name(), "' reads the keys at the top of the file and those of [", command.get_name(), "]");
    }
    CLI::Option* option = command.get_option_no_throw("--" + item.name);
    if (!option || !option->get_configurable())
      fail(Error::Kind::usage, path, ":", line_of_key(path, item.name), ": unknown key '", item.name, "' for 'mote ",
           command.get_name(), "'", did_you_mean(item.name, long_options(command)));
    if (!seen.insert(item.name).second)
      fail(Error::Kind::usage, path, ": key '", item.name, "' is set twice");
    if (option->count() > 0) continue;   // the command line beats the file
    try {
      option->add_result(joined(item.inputs, ","));
      option->run_callback();
    } catch (const CLI::ParseError& error) {
      fail(Error::Kind::usage, path, ":", line_of_key(path, item.name), ": key '", item.name, "': ", error.what());
    }
  }
}

int edit_distance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = int(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = int(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      int above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

CLI::App& add_command(CLI::App& parent, const std::string& name, const std::string& what, const std::string& example,
                      CommonOptions& common, std::function<void()> run) {
  CLI::App* command = parent.add_subcommand(name, what);
  command->footer("Example:\n  " + example);
  const std::string group = "Common";
  command->add_option("--device", common.device, "auto, cpu or cuda[:k]; an explicit device never falls back")
      ->group(group)->capture_default_str();
  command->add_option("--threads", common.threads, "CPU threads (default: as OpenMP decides); results do not depend on it")
      ->group(group);
  command->add_option("--seed", common.seed, "seed of every random number")->group(group)->capture_default_str();
  command->add_option("--precision", common.precision, "f32, bf16, or on a GPU tf32")->group(group)->capture_default_str();
  command->add_option("--config", common.config, "TOML file with any of these flags; a flag given here beats it")
      ->group(group)->configurable(false);
  command->add_flag("--quiet", common.quiet, "no progress and no remarks, only errors")->group(group);
  command->add_flag("--json", common.json, "the result as one JSON object on stdout")->group(group);
  command->callback([command, &common, run = std::move(run)] {
    apply_config(*command, common.config);
    precision_named(common.precision);
    if (common.threads < 0 || common.threads > 4096 || (common.threads == 0 && command->count("--threads") > 0))
      fail(Error::Kind::usage, "--threads: must be 1 to 4096, got ", common.threads);
    run();
  });
  return *command;
}

namespace {

Device device_for(const CommonOptions& common) {
  if (common.threads > 0) omp_set_num_threads(int(common.threads));
  const std::string& name = common.device;
  if (name == "cpu") return {};
  if (name == "auto") {
    const cuda::Backend& gpu = cuda::backend();
    bool usable = gpu.unusable(0).empty() && cuda::missing_kernels(gpu.kernels).empty();
    return usable ? Device{Device::cuda, 0} : Device{};
  }
  int index = 0;
  bool known = name == "cuda";
  if (name.starts_with("cuda:")) {
    const char* end = name.data() + name.size();
    auto [stop, error] = std::from_chars(name.data() + 5, end, index);
    known = error == std::errc() && stop == end && index >= 0 && index < 128;
  }
  if (!known) fail(Error::Kind::usage, "--device: '", name, "' is not a device; auto, cpu, cuda and cuda:k are");
  Device device{Device::cuda, int8_t(index)};
  require_device(device);
  return device;
}

}  // namespace

Device start(const CommonOptions& common) {
  Device device = device_for(common);
  if (common.precision == "tf32" && device.is_cpu())
    fail(Error::Kind::usage, "--precision: tf32 is of GPUs; on the CPU f32 and bf16 are");
  return device;
}

void start_on_cpu(const CommonOptions& common) {
  if (common.device.starts_with("cuda"))
    fail(Error::Kind::usage, "--device: this command computes on the CPU; '", common.device, "' would not be used");
  start(common);
}

DType precision_named(const std::string& name) {
  if (name == "bf16") return DType::bf16;
  if (name != "f32" && name != "tf32")
    fail(Error::Kind::usage, "--precision: '", name, "' is not known; f32, bf16 and tf32 are");
  allow_tf32(name == "tf32");
  return DType::f32;
}

void set_command_line(int argc, char** argv) {
  const std::string plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,+@%";
  command_line_text = "mote";
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    command_line_text += ' ';
    if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) {
      command_line_text += word;
      continue;
    }
    command_line_text += '\'';
    for (char letter : word) command_line_text += letter == '\'' ? std::string("'\\''") : std::string(1, letter);
    command_line_text += '\'';
  }
}

const std::string& command_line() { return command_line_text; }

// ---- Text ----------------------------------------------------------------------------------------------------------

std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  // Two slips, or one in three letters, still count as near; a word that shares nothing does not.
  int nearest = int(std::min(word.size(), std::max<size_t>(3, word.size() / 3 + 1)));
  for (const std::string& candidate : candidates) {
    int distance = edit_distance(word, candidate);
    if (distance < nearest) {
      nearest = distance;
      best = candidate;
    }
  }
  return best.empty() ? "" : " (did you mean '" + best + "'?)";
}

std::string joined(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) text += (i ? between : "") + words[i];
  return text;
}

std::string bytes_text(int64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = double(bytes);
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

std::string seconds_text(double seconds) {
  char text[64];
  auto whole = int64_t(std::llround(seconds));
  if (seconds < 59.95)
    std::snprintf(text, sizeof text, "%.1f s", seconds);
  else if (whole < 3600)
    std::snprintf(text, sizeof text, "%dm %02ds", int(whole / 60), int(whole % 60));
  else
    std::snprintf(text, sizeof text, "%lldh %02dm", static_cast<long long>(whole / 3600), int(whole % 3600 / 60));
  return text;
}

std::string number_text(double value) {
  char text[64];
  auto [end, error] = std::to_chars(text, text + sizeof text, value);
  return error == std::errc() ? std::string(text, end) : "?";
}

std::string count_text(int64_t value) {
  std::string digits = std::to_string(value);
  for (int at = int(digits.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3) digits.insert(size_t(at), ",");
  return digits;
}

std::vector<int64_t> int_list(const std::string& flag, const std::string& text) {
  std::vector<int64_t> values;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    int64_t value = 0;
    auto [stop, error] = std::from_chars(at, end, value);
    bool separated = stop == end || (*stop == ',' && stop + 1 < end);
    if (error != std::errc() || !separated)
      fail(Error::Kind::usage, flag, ": '", text, "' is not a list of whole numbers such as 1,2,2");
    values.push_back(value);
    at = stop == end ? end : stop + 1;
  }
  return values;
}

int64_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  int64_t pages = 0, resident = 0;
  if (!(in >> pages >> resident)) return 0;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace mote::apps
