// main.cpp - the program `mote`: finds the subcommand, runs it, and turns what it throws into an exit code:
// 0 done, 1 internal error, 2 usage, 3 input data, 4 checkpoint, 5 resources, 6 numbers, 128 + n stopped by signal n.
// What runs before main looks at the processor: cpu_check.cpp.
#include <omp.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "apps/cmd_restore.h"
#include "apps/commands.h"
#include "apps/common.h"
#include "apps/cpu_check.h"
#include "apps/progress.h"
#include "mote_commit.h"
#include "tensor/cpu/amx.h"
#include "tensor/error.h"

namespace mote::apps {
namespace {

constexpr const char* kVersion = "0.1.0";

std::string version_text() {
  std::string text = std::string("mote ") + kVersion + "\n";
  text += std::string("commit: ") + MOTE_COMMIT + "\n";
#ifdef __clang__
  text += "compiler: clang " __clang_version__ "\n";
#else
  text += "compiler: gcc " __VERSION__ "\n";
#endif
  std::string built, more;
  for (int i = 0; i < mote_isa_count; ++i) {
    if (mote_isa_built >> i & 1u)
      built += std::string(built.empty() ? "" : " ") + mote_isa_names[i];
    else if (mote_isa_machine() >> i & 1u)
      more += std::string(more.empty() ? "" : " ") + mote_isa_names[i];
  }
  text += "instruction sets: " + (built.empty() ? "baseline" : built) + "\n";
  if (!more.empty()) text += "not used, though this machine has them: " + more + "\n";
  text += "AMX: " + std::string(cpu::name_of(cpu::amx_use())) + "\n";
  text += "OpenMP threads: " + std::to_string(omp_get_max_threads()) + "\n";
#ifdef MOTE_CUDA
  text += "CUDA: " MOTE_CUDA "\n";   // toolkit and architectures, from CMakeLists.txt
#else
  text += "CUDA: off\n";
#endif
#ifdef MOTE_DEBUG
  text += "build: debug\n";
#endif
  return text;
}

int exit_code(Error::Kind kind) {
  switch (kind) {
    case Error::Kind::argument: return 1;
    case Error::Kind::usage: return 2;
    case Error::Kind::data: return 3;
    case Error::Kind::checkpoint: return 4;
    case Error::Kind::resource: return 5;
    case Error::Kind::numeric: return 6;
  }
  return 1;
}

int say(int code, const std::string& what) {
  std::fflush(stdout);
  const char* colour = stderr_has_colour() ? "\033[31;1m" : "";
  const char* plain = stderr_has_colour() ? "\033[0m" : "";
  std::fprintf(stderr, "mote: %serror:%s %s\n", colour, plain, what.c_str());
  return code;
}

/// The innermost subcommand that was chosen.
const CLI::App& chosen(const CLI::App& app) {
  std::vector<CLI::App*> parsed = const_cast<CLI::App&>(app).get_subcommands();
  return parsed.empty() ? app : chosen(*parsed.front());
}

std::string full_name(const CLI::App& command) {
  return command.get_parent() ? full_name(*command.get_parent()) + " " + command.get_name() : "mote";
}

/// CLI11 says what it did not expect; this adds what was probably meant.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = chosen(app);
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  std::string message = error.what();
  if (error.get_exit_code() == int(CLI::ExitCodes::ExtrasError)) {
    std::vector<std::string> extras = app.remaining(true);
    message = "unexpected:";
    for (const std::string& extra : extras)
      message += " '" + extra + "'" + (extra.starts_with("-") ? did_you_mean(extra.substr(0, extra.find('=')), names) : "");
  }
  // "--steps: At Most 1 required but received 2"
  const std::string twice = "At Most 1 required but received ";
  if (size_t at = message.find(twice); at != std::string::npos)
    message = message.substr(0, at) + "is given " + message.substr(at + twice.size()) + " times";
  return message + "\n  see " + full_name(command) + " --help";
}

/// CLI11 reports an unknown subcommand as a missing one; this names it. Empty if the words are commands.
std::string unknown_command(const CLI::App& app, int argc, char** argv) {
  const CLI::App* at = &app;
  for (int i = 1; i < argc; ++i) {
    std::vector<const CLI::App*> commands = at->get_subcommands([](const CLI::App*) { return true; });
    if (commands.empty() || argv[i][0] == '-') break;
    std::vector<std::string> names;
    const CLI::App* found = nullptr;
    for (const CLI::App* command : commands) {
      names.push_back(command->get_name());
      if (command->get_name() == argv[i]) found = command;
    }
    if (!found)
      return "'" + std::string(argv[i]) + "' is not a command of " + full_name(*at) + did_you_mean(argv[i], names) +
             "; there are " + joined(names);
    at = found;
  }
  return "";
}

/// libgomp lets a waiting thread spin for some 10 ms before it sleeps. Where something else wants the processor too,
/// the spinner takes the time of the thread it waits for: a train step on two cores beside compilers went from 5 s to
/// 0.6 s with a shorter spin. It can only be set before the program starts, so the program starts itself once more.
void shorten_spinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") || std::getenv("OMP_WAIT_POLICY")) return;
  setenv("GOMP_SPINCOUNT", "10000", 1);
  execv("/proc/self/exe", argv);   // returns only if it fails, and then the long spin does no harm but time
}

int run(int argc, char** argv) {
  shorten_spinning(argv);
  set_command_line(argc, argv);
  // A file that may not grow (ulimit -f) is then an error of write(), which is reported, not the end of the program.
  signal(SIGXFSZ, SIG_IGN);
#ifdef MOTE_DEBUG
  std::fprintf(stderr, "mote: this is a debug build, several times slower than a release build\n");
#endif
  CLI::App app{"mote: diffusion models from scratch"};
  app.require_subcommand(1);
  app.set_version_flag("--version", version_text);
  app.footer("Examples:\n"
             "  mote train --data fashion-mnist --unet fmnist --steps 1500 --out runs/first --seed 1\n"
             "  mote sample --run runs/first --steps 50 --count 64 --out a.png\n"
             "mote COMMAND --help tells more.");
  add_train_command(app);
  add_sample_command(app);
  add_data_command(app);
  add_ckpt_command(app);
  add_report_command(app);
  add_bench_command(app);
  add_eval_command(app);
  add_compare_command(app);
  add_cluster_command(app);
  add_gmm_command(app);
  add_ot_command(app);
  add_segment_command(app);
  add_restore_command(app);
  if (argc == 1) {
    std::fprintf(stderr, "%s", app.help().c_str());
    return 2;
  }
  if (std::string unknown = unknown_command(app, argc, argv); !unknown.empty()) return say(2, unknown);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const Exit& exit) {
    return exit.code;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);   // --help, --version
    return say(2, usage_message(app, error));
  } catch (const Error& error) {
    return say(exit_code(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return say(5, "out of memory");
  } catch (const std::filesystem::filesystem_error& error) {
    return say(5, error.what());
  } catch (const std::exception& error) {
    return say(1, std::string("internal error: ") + error.what());
  }
}

}  // namespace
}  // namespace mote::apps

int main(int argc, char** argv) { return mote::apps::run(argc, argv); }
