#include "apps/run_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/checkpoint.h"
#include "tensor/error.h"
#include "tensor/io/file.h"

namespace mote::apps {

namespace fs = std::filesystem;

namespace {

constexpr const char* kLockFile = ".lock";

/// True as well if the folder cannot be read: what cannot be seen is not touched.
bool holds_files(const std::string& path) {
  std::error_code error;
  for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error))
    if (at->path().filename() != kLockFile) return true;
  return bool(error);
}

/// Leftovers of a save that was cut off by kill -9. The lock is held, so nobody is writing them.
void remove_unfinished(const std::string& path) {
  std::vector<fs::path> unfinished;
  for (const fs::directory_entry& entry : fs::directory_iterator(path))
    if (entry.path().filename().string().find("checkpoint.next") != std::string::npos) unfinished.push_back(entry.path());
  for (const fs::path& file : unfinished) fs::remove(file);
}

}  // namespace

RunDir::RunDir(const std::string& path, Open how) : path_(path) {
  if (path.empty()) fail(Error::Kind::usage, "--out: the run folder is missing, for instance --out runs/first");
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
  try {
    prepare(how);
  } catch (const fs::filesystem_error& error) {
    release();
    fail(Error::Kind::resource, "--out: cannot write the run folder ", path_, ": ", error.code().message());
  } catch (...) {
    release();
    throw;
  }
}

RunDir::~RunDir() { release(); }

void RunDir::prepare(Open how) {
  if (how == Open::resume && !fs::exists(path_)) fail(Error::Kind::checkpoint, "--resume: there is no run at ", path_);
  if (fs::exists(path_) && !fs::is_directory(path_))
    fail(Error::Kind::resource, "--out: ", path_, " is a file, not a folder");
  created_ = fs::create_directories(path_);
  lock();
  if (how == Open::fresh && holds_files(path_))
    fail(Error::Kind::usage, "--out: ", path_, " is not empty; give --resume to continue the run in it, --overwrite to ",
         "replace it, or another --out");
  if (how == Open::resume && !fs::exists(file(kCheckpointFile)) && !fs::exists(file(kPreviousFile)))
    fail(Error::Kind::checkpoint, "--resume: there is no checkpoint in ", path_, " (", kCheckpointFile, ")");
  remove_unfinished(path_);
}

void RunDir::clear() const {
  for (const char* name : {"config.toml", kCheckpointFile, kPreviousFile, "log.jsonl", "samples", "report.html"})
    fs::remove_all(file(name));
}

void RunDir::release() {
  if (lock_ < 0) return;
  std::error_code ignored;
  if (created_ && fs::is_directory(path_, ignored) && !holds_files(path_)) {
    fs::remove(file(kLockFile), ignored);
    fs::remove(path_, ignored);
  }
  close(lock_);
  lock_ = -1;
}

void RunDir::lock() {
  std::string name = file(kLockFile);
  lock_ = open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0)
    fail(Error::Kind::resource, "--out: cannot write the run folder ", path_, ": ", std::strerror(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    int error = errno;
    char owner[32] = {};
    [[maybe_unused]] ssize_t got = read(lock_, owner, sizeof owner - 1);
    close(lock_);
    lock_ = -1;
    if (error != EWOULDBLOCK)
      fail(Error::Kind::resource, "--out: cannot lock ", name, ": ", std::strerror(error));
    fail(Error::Kind::usage, "--out: another training (process ", owner, ") is running in ", path_,
         "; wait for it or give another --out");
  }
  std::string owner = std::to_string(getpid());
  if (ftruncate(lock_, 0) != 0 || pwrite(lock_, owner.data(), owner.size(), 0) != ssize_t(owner.size()))
    fail(Error::Kind::resource, "--out: cannot write ", name, ": ", std::strerror(errno));
}

std::string RunDir::sample_file(int64_t step) const {
  char name[64];
  std::snprintf(name, sizeof name, "samples/step_%06lld.png", static_cast<long long>(step));
  return file(name);
}

void RunDir::truncate_log(int64_t step) const {
  std::ifstream in(file("log.jsonl"));
  if (!in) return;
  std::string line, kept;
  while (std::getline(in, line)) {
    nlohmann::json record = nlohmann::json::parse(line, nullptr, false);
    if (record.is_object() && record.contains("step") && record["step"].is_number_integer() &&
        record["step"].get<int64_t>() <= step)
      kept += line + "\n";
  }
  in.close();
  io::write_file_atomic(file("log.jsonl"), kept);
}

void RunDir::append_log(const std::string& json) const {
  std::string name = file("log.jsonl"), line = json + "\n";
  // One write a record: a reader, or a kill, never sees half of two.
  int handle = open(name.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  bool written = handle >= 0 && write(handle, line.data(), line.size()) == ssize_t(line.size());
  int error = errno;
  if (handle >= 0) close(handle);
  if (!written) fail(Error::Kind::resource, "cannot write ", name, ": ", std::strerror(error));
}

}  // namespace mote::apps
