// cmd_segment.h - the subcommands of `mote segment`, each group in a file of its own.
#pragma once

namespace CLI {
class App;
}

namespace mote::apps {

void add_segment_train_commands(CLI::App& segment);   // cmd_segment_train.cpp: train-e2e, train-ddpm, cache-f
void add_segment_predict(CLI::App& segment);          // cmd_segment_predict.cpp
void add_segment_eval(CLI::App& segment);             // cmd_segment_eval.cpp

}  // namespace mote::apps
