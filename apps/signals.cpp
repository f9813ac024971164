#include "apps/signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "apps/common.h"

namespace mote::apps {
namespace {

std::atomic<int> noted{0};
const char* words = "";
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_signal(int signal) {
  int none = 0;
  if (!noted.compare_exchange_strong(none, signal)) _exit(128 + signal);
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, words, std::strlen(words));
}

}  // namespace

void watch_signals(const char* first_words) {
  words = first_words;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;   // the step that runs must not see its writes interrupted
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int stop_signal() { return noted.load(); }

void exit_if_stopped() {
  if (int signal = stop_signal()) throw Exit{128 + signal};
}

}  // namespace mote::apps
