// run_mote.h - running the program in a test: its exit code, what it wrote to stdout and stderr, stopping it midway.
#pragma once
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <vector>

#include "tensor/io/safetensors.h"
#include "tests/support.h"

namespace mote::test {

using Args = std::vector<std::string>;

inline Args operator+(Args a, const Args& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Text cut at its blanks.
inline Args words(const std::string& text) {
  std::istringstream in(text);
  Args list;
  for (std::string word; in >> word;) list.push_back(word);
  return list;
}

inline std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

struct Result {
  int code = -1;   // exit code; -1 if a signal ended it
  int signal = 0;
  std::string out, err;
  nlohmann::json json() const { return nlohmann::json::parse(out); }
};

inline std::string told(const Result& result) {
  return "exit " + std::to_string(result.code) + ", signal " + std::to_string(result.signal) + "\n" + result.out +
         result.err;
}

/// `mote ARGS` running in `folder`, its output kept in files outside it. largest_file: in bytes, 0 for no limit.
class Process {
 public:
  Process(const std::string& folder, const Args& args, int64_t largest_file = 0) : folder_(folder) {
    static int number = 0;
    namespace fs = std::filesystem;
    out_ = fs::temp_directory_path() / ("mote-out-" + std::to_string(getpid()) + "-" + std::to_string(number++));
    Args words = Args{MOTE_BINARY} + args;
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    setenv("GOMP_SPINCOUNT", "100", 1);   // the tests may share the processor
    setenv("NO_COLOR", "1", 1);
    std::string out = out_ + ".out", err = out_ + ".err";
    pid_ = fork();
    if (pid_ != 0) return;
    // Only system calls: what the parent has in its stdio buffers must not be written twice.
    auto redirect = [](const char* path, int flags, int to) { return dup2(open(path, flags, 0600), to) == to; };
    if (chdir(folder_.c_str()) != 0 || !redirect(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO) ||
        !redirect(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO) || !redirect("/dev/null", O_RDONLY, STDIN_FILENO))
      _exit(120);
    if (largest_file > 0) {
      rlimit limit{rlim_t(largest_file), rlim_t(largest_file)};
      setrlimit(RLIMIT_FSIZE, &limit);
    }
    execv(MOTE_BINARY, argv.data());
    _exit(121);
  }
  ~Process() {
    if (running_) {
      kill(SIGKILL);
      wait();
    }
    for (const char* end : {".out", ".err"}) std::filesystem::remove(out_ + end);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void kill(int signal) { ::kill(pid_, signal); }
  Result wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    running_ = false;
    Result result;
    if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
    result.out = read_text(out_ + ".out");
    result.err = read_text(out_ + ".err");
    return result;
  }
  /// Waits until `path` below the folder exists; false if the program ends or a minute passes before.
  bool wait_for(const std::string& path) {
    for (int i = 0; i < 30000; ++i) {
      if (std::filesystem::exists(folder_ + "/" + path)) return true;
      siginfo_t info{};
      if (waitid(P_PID, id_t(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid_) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return false;
  }

 private:
  std::string folder_, out_;
  pid_t pid_ = -1;
  bool running_ = true;
};

inline Result mote_in(const ScratchFolder& folder, const Args& args) { return Process(folder.path(), args).wait(); }

/// The result, which must be a success.
inline Result done(const Result& result) {
  INFO(told(result));
  REQUIRE(result.code == 0);
  return result;
}

/// "" if two checkpoints hold the same tensors, bit for bit, and the same metadata under `keys`; else the first
/// difference.
inline std::string checkpoint_difference(const std::string& a, const std::string& b,
                                         const std::vector<const char*>& keys) {
  io::Safetensors one = io::load_safetensors(a), other = io::load_safetensors(b);
  if (one.tensors.size() != other.tensors.size() || one.tensors.empty()) return "other tensors";
  for (const auto& [name, tensor] : one.tensors) {
    auto found = other.tensors.find(name);
    if (found == other.tensors.end()) return name + " is missing";
    if (std::string different = difference(found->second, tensor, 0, 0); !different.empty())
      return name + ": " + different;
  }
  for (const char* key : keys)
    if (one.metadata.at(key) != other.metadata.at(key)) return std::string("metadata ") + key;
  return "";
}

}  // namespace mote::test

#define CHECK_EXIT(result, expected, words)        \
  do {                                             \
    const mote::test::Result& got = (result);      \
    INFO(mote::test::told(got));                   \
    CHECK(got.code == (expected));                 \
    CHECK(mote::test::contains(got.err, (words))); \
  } while (false)
