// cmd_report.cpp - `mote report`: writes report.html of a run anew.
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/cluster_report.h"
#include "apps/commands.h"
#include "apps/common.h"
#include "apps/report.h"
#include "apps/restore_checkpoint.h"
#include "apps/segment_checkpoint.h"
#include "apps/segment_report.h"
#include "tensor/error.h"

namespace mote::apps {

void add_report_command(CLI::App& app) {
  struct Options {
    CommonOptions common;
    std::string run;
  };
  auto o = std::make_shared<Options>();
  CLI::App& command = add_command(app, "report", "Write report.html of a run: curves, samples, numbers, configuration",
                                  "mote report runs/first", o->common, [o] {
                                    if (o->run.empty())
                                      fail(Error::Kind::usage, "the run is missing, for instance: mote report runs/first");
                                    std::string path = is_cluster_run(o->run)   ? write_cluster_report(o->run)
                                                       : is_segment_run(o->run) ? write_segment_report(o->run)
                                                       : is_restore_run(o->run) ? write_restore_report(o->run)
                                                                                : write_report(o->run);
                                    if (o->common.json)
                                      std::cout << nlohmann::json{{"report", path}}.dump() << "\n";
                                    else
                                      std::cout << path << "\n";
                                  });
  command.add_option("--run,run", o->run, "run folder");
}

}  // namespace mote::apps
