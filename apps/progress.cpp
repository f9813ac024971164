#include "apps/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "apps/common.h"

namespace mote::apps {
namespace {

constexpr double kBarSeconds = 0.1, kLineSeconds = 5;   // how often a bar and a plain line are renewed

double seconds(std::chrono::steady_clock::duration span) { return std::chrono::duration<double>(span).count(); }

size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

bool stderr_has_colour() {
  const char* no_colour = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  bool dumb = terminal && std::string(terminal) == "dumb";
  return isatty(STDERR_FILENO) && !(no_colour && *no_colour) && !dumb;
}

Progress::Progress(std::string what, int64_t begin, int64_t total, std::string unit, bool quiet)
    : what_(std::move(what)), unit_(std::move(unit)), begin_(begin), total_(total), quiet_(quiet),
      terminal_(isatty(STDERR_FILENO)), colour_(stderr_has_colour()), start_(Clock::now()), shown_(start_) {}

Progress::~Progress() { finish(); }

std::string Progress::line(int64_t done, const std::string& extra) const {
  double passed = std::max(seconds(Clock::now() - start_), 1e-9);
  double rate = double(done - begin_) / passed;
  std::string total = std::to_string(total_), count = std::to_string(done);
  count.insert(0, total.size() - std::min(total.size(), count.size()), ' ');
  std::string text = what_ + " ";
  if (terminal_) {
    constexpr int kCells = 24;
    int full = total_ > 0 ? int(kCells * done / total_) : kCells;
    std::string bar;
    for (int cell = 0; cell < kCells; ++cell) bar += cell < full ? "━" : "╌";
    text += colour_ ? "\033[36m" + bar + "\033[0m " : bar + " ";
  }
  text += count + "/" + total;
  if (done > begin_) {
    char numbers[64];
    std::snprintf(numbers, sizeof numbers, rate >= 100 ? "  %.0f %s/s" : "  %.2f %s/s", rate, unit_.c_str());
    text += numbers;
    text += done < total_ ? "  " + seconds_text(double(total_ - done) / rate) + " left"
                          : "  " + seconds_text(passed) + " in all";
  }
  if (!extra.empty()) text += "  " + extra;
  return text;
}

void Progress::show(const std::string& text, bool last) {
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", text.c_str());
    return;
  }
  // Cut at the width of the terminal, counting letters and no escape sequences, or the line would wrap and pile up.
  std::string cut;
  size_t letters = 0, width = terminal_width() - 1;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\033') {
      size_t end = text.find('m', i);
      cut.append(text, i, end - i + 1);
      i = end;
      continue;
    }
    bool starts_letter = (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80;
    if (starts_letter && ++letters > width) break;
    cut += text[i];
  }
  std::fprintf(stderr, "\r\033[K%s%s%s", cut.c_str(), colour_ ? "\033[0m" : "", last ? "\n" : "");   // the cut may end in colour
  std::fflush(stderr);
  open_ = !last;
}

void Progress::update(int64_t done, const std::string& extra) {
  bool first = done_ < 0;
  done_ = done;
  extra_ = extra;
  if (quiet_) return;
  Clock::time_point now = Clock::now();
  if (!first && seconds(now - shown_) < (terminal_ ? kBarSeconds : kLineSeconds)) return;
  shown_ = now;
  show(line(done, extra), false);
}

void Progress::say(const std::string& text) {
  if (quiet_) return;
  std::fprintf(stderr, "%s%s\n", open_ ? "\r\033[K" : "", text.c_str());
  if (open_) show(line(done_, extra_), false);
}

void Progress::finish() {
  if (!quiet_ && done_ >= 0) show(line(done_, extra_), true);
  quiet_ = quiet_ || done_ >= 0;
}

}  // namespace mote::apps
