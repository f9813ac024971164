// commands.h - the subcommands of `mote`, one file each (cmd_NAME.cpp). Each function adds its subcommand to the app;
// what they share is in common.h. main.cpp calls them and turns what they throw into exit codes.
#pragma once

namespace CLI {
class App;
}

namespace mote::apps {

void add_train_command(CLI::App& app);
void add_sample_command(CLI::App& app);
void add_data_command(CLI::App& app);
void add_ckpt_command(CLI::App& app);
void add_report_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_compare_command(CLI::App& app);
void add_cluster_command(CLI::App& app);
void add_gmm_command(CLI::App& app);
void add_ot_command(CLI::App& app);
void add_segment_command(CLI::App& app);

/// `mote eval cluster` and `mote eval seg`, below `mote eval`.
void add_eval_cluster_command(CLI::App& eval);
void add_eval_seg_command(CLI::App& eval);

}  // namespace mote::apps
