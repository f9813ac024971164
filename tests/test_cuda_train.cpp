// `mote train` on the emulated GPU: a replayed step, outcomes that are read late, a resumed run, a step that fails.
#include <filesystem>

#include "apps/trainer.h"
#include "tensor/io/file.h"
#include "tests/cuda_host/gpu.h"
#include "tests/run_mote.h"
#include "tests/sanitized.h"

using namespace mote;
using namespace mote::test;

namespace {

/// A run with dropout of a network as small as one can be, on `device`.
apps::TrainJob job_on(const std::string& device, const std::string& out, int64_t steps) {
  apps::TrainJob job;
  job.common.device = device;
  job.common.threads = 1;
  job.common.quiet = true;
  job.out = out;
  job.config.data = "synthetic:blobs";
  job.config.size = 8;
  job.config.limit = 12;
  job.config.unet = "custom";
  job.config.base = 8;
  job.config.mult = "1";
  job.config.blocks = 1;
  job.config.attention = "8";
  job.config.dropout = 0.2;
  job.config.batch = 2;
  job.config.lr = 1e-2;
  job.config.ema = 0.5;
  job.config.seed = 3;
  job.config.steps = steps;
  job.config.log_every = 2;
  job.config.save_every = 0;
  job.config.sample_count = 0;
  for (const char* name : {"base", "mult", "blocks", "attention"}) job.given.push_back(name);
  return job;
}

std::vector<nlohmann::json> records(const std::string& run) {
  std::vector<nlohmann::json> all;
  std::istringstream lines(read_text(run + "/log.jsonl"));
  for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line));
  return all;
}

}  // namespace

TEST_CASE("a run on an emulated GPU logs the losses of the CPU, and resumed it is the straight one", "[cuda_host]") {
  if (kSanitized) return;   // no code that other tests of the emulated GPU do not run
  ScratchFolder folder;
  EmulatedGpu gpu;
  std::string straight = folder.path("gpu"), parts = folder.path("parts"), cpu = folder.path("cpu");
  apps::train(job_on("cuda", straight, 5));
  apps::train(job_on("cpu", cpu, 5));
  std::vector<nlohmann::json> got = records(straight), expected = records(cpu);
  REQUIRE(got.size() == 3);   // steps 2, 4 and the last
  REQUIRE(expected.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(got[i]["step"] == expected[i]["step"]);
    for (const char* key : {"loss", "lr", "grad_norm"}) {
      INFO(key << " of record " << i);
      CHECK(got[i][key].get<double>() == Approx(expected[i][key].get<double>()).epsilon(1e-3));
    }
  }
  apps::train(job_on("cuda", parts, 3));
  apps::TrainJob more = job_on("cuda", parts, 5);
  more.resume = true;
  more.given = {"steps"};
  apps::train(more);
  CHECK(checkpoint_difference(parts + "/checkpoint.safetensors", straight + "/checkpoint.safetensors",
                              {"step", "images", "random"}) == "");
}

TEST_CASE("a step that fails on a GPU is found when outcomes are read, and nothing after it counts", "[cuda_host]") {
  if (kSanitized) return;
  ScratchFolder folder;
  EmulatedGpu gpu;
  apps::TrainJob job = job_on("cuda", folder.path("run"), 4);
  job.config.lr = 1e30;
  job.config.clip = 0;
  job.config.log_every = 4;
  std::string message;
  try {
    apps::train(job);
  } catch (const Error& error) {
    CHECK(error.kind() == Error::Kind::numeric);
    message = error.what();
  }
  CHECK(contains(message, "training step 2: "));   // the first one after weights of 1e30
  CHECK(contains(message, "first bad tensor: output of"));
  CHECK(contains(message, "no checkpoint had been written yet"));
  CHECK(!std::filesystem::exists(folder.path("run/checkpoint.safetensors")));
}
