// progress.h - how far a loop is, on stderr: a bar with rate and time left on a terminal, else a line every few seconds.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace mote::apps {

class Progress {
 public:
  /// `what` stands in front ("train"); counting starts at `begin` (a resumed run) and ends at `total`.
  /// `unit` names one count in the rate ("step/s").
  Progress(std::string what, int64_t begin, int64_t total, std::string unit, bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` counts are finished; `extra` is shown behind them ("loss 0.031").
  void update(int64_t done, const std::string& extra = "");
  /// A remark that must not tear the bar; nothing if quiet.
  void say(const std::string& line);
  /// Ends the bar; later calls only say.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(int64_t done, const std::string& extra) const;
  void show(const std::string& text, bool last);

  std::string what_, unit_;
  int64_t begin_, total_;
  bool quiet_, terminal_, colour_;
  bool open_ = false;        // a bar stands on the current line
  int64_t done_ = -1;
  std::string extra_;
  Clock::time_point start_, shown_;
};

/// Whether stderr may be coloured: a terminal, NO_COLOR unset or empty, TERM not "dumb".
bool stderr_has_colour();

}  // namespace mote::apps
