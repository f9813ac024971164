// signals.h - Ctrl-C and SIGTERM: the first one is noted, so that the step can be finished and saved; the second one
// ends the program at once. Long loops ask stop_signal() between steps.
#pragma once

namespace mote::apps {

/// From here on the first SIGINT or SIGTERM is noted and the second ends the program with 130 or 143.
/// `first_words` (a literal) is written to stderr at the first one.
void watch_signals(const char* first_words);

/// 0, or the signal that asked the program to stop.
int stop_signal();

/// Thrown at a signal by work of a training that may be left out: a grid, a validation, codes of all images.
struct Stopped {};

/// Throws Exit{130 or 143} if a signal has come.
void exit_if_stopped();

}  // namespace mote::apps
