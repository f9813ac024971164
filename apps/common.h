// common.h - what every subcommand shares: the common flags, the config file, the device, text helpers.
// A subcommand is made with add_command, which adds the common flags and applies --config before it runs.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tensor/device.h"
#include "tensor/dtype.h"

namespace CLI {
class App;
}

namespace mote::apps {

struct CommonOptions {
  std::string device = "auto";
  int64_t threads = 0;             // 0: as OpenMP decides
  uint64_t seed = 0;
  std::string precision = "f32";   // "f32", "bf16" or "tf32", checked
  std::string config;              // applied before the command runs
  bool quiet = false;
  bool json = false;
};

/// Thrown to end the program with `code` when nothing is left to say, such as after a signal.
struct Exit {
  int code;
};

/// Adds `name` below `parent` with the common flags. When it is chosen, the keys of --config are filled in (a flag on
/// the command line beats them, an unknown key is Error(usage)), then `run` is called. `common` must live as long as
/// `run`. `example` is shown at the end of --help.
CLI::App& add_command(CLI::App& parent, const std::string& name, const std::string& what, const std::string& example,
                      CommonOptions& common, std::function<void()> run);

/// Sets the number of threads and returns the device. "auto" takes cuda:0 if it is usable, else the CPU; an explicit
/// device never falls back: Error(resource) if it cannot be used, Error(usage) if it is not a device at all, or if
/// --precision tf32 meets the CPU.
Device start(const CommonOptions& common);
/// The same for a command that has no part for a GPU: Error(usage) if one is asked for.
void start_on_cpu(const CommonOptions& common);
/// What a network computes in with --precision f32, bf16 or tf32 (nn::UNet::set_precision); tf32 is f32 with allow_tf32(true).
/// Error(usage) for any other word.
DType precision_named(const std::string& name);

/// The command line as it was typed, quoted for a shell; main sets it, sidecars and reports show it.
void set_command_line(int argc, char** argv);
const std::string& command_line();

// ---- Text ----------------------------------------------------------------------------------------------------------

/// " (did you mean 'x'?)" with the candidate nearest to `word`, or "" if none is near.
std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates);
std::string joined(const std::vector<std::string>& words, const std::string& between = ", ");
std::string bytes_text(int64_t bytes);       // 1.5 GiB
std::string seconds_text(double seconds);    // 4.2 s, 3m 20s, 2h 05m
std::string number_text(double value);       // the shortest text that reads back as the same double
std::string count_text(int64_t value);       // 1,622,401
/// "1,2,2" as numbers. Throws Error(usage) naming `flag`.
std::vector<int64_t> int_list(const std::string& flag, const std::string& text);

/// Resident memory of this process in bytes (0 where /proc is missing).
int64_t resident_bytes();

}  // namespace mote::apps
