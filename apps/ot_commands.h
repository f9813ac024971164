// ot_commands.h - the actions of `mote ot`, and what those that draw with a trained network share.
#pragma once
#include <string>
#include <vector>

#include "apps/dataset.h"
#include "apps/ot_map.h"

namespace CLI {
class App;
}

namespace mote::apps {

void add_ot_fit(CLI::App& ot);  // cmd_ot_fit.cpp
void add_ot_apply(CLI::App& ot);
void add_ot_sample(CLI::App& ot);  // cmd_ot_sample.cpp
void add_ot_eval(CLI::App& ot);
void add_ot_demo(CLI::App& ot);  // cmd_ot_demo.cpp

/// The checkpoint of --run or --ckpt, one of which must be given. Throws Error(usage) otherwise.
Checkpoint checkpoint_of(const std::string& run, const std::string& ckpt);

/// The images of `split` of the data that a network was trained on, in its size and channels, or of another SPEC.
/// Throws Error(data) if the run's own training data are no longer what it was trained on.
Dataset network_data(const Checkpoint& checkpoint, const std::string& spec, const std::string& split);

}  // namespace mote::apps
