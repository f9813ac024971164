// ot_curve.h - `mote bench ot-curve`: how fast the transport solver comes down on a data set, as chi2 against samples a
// target beside the bound for independent samples, and the time until a certificate holds.
#pragma once
#include <string>
#include <vector>

#include "apps/dataset.h"
#include "diffusion/ot/solver.h"

namespace mote::apps {

struct OtCurveOptions {
  DataOptions data;               // its images are the targets, in [-1, 1]
  std::string source = "gaussian", method = "sgd";
  DType dtype = DType::f32;
  double samples = 40;            // a target, the end of the curve
  double chi2 = 0.05;             // of the certificate
  int64_t batch = 0;
  uint64_t seed = 0;
};

struct OtCurve {
  int64_t targets = 0, width = 0;
  double score_scale = 0;         // the targets were divided by it
  struct Point {
    double samples = 0;           // a target
    ot::Quality quality;
    double seconds = 0, cpu_seconds = 0;   // of steps alone; cpu: of all threads together
  };
  std::vector<Point> points;
  ot::SolverResult solved;        // another run, until chi2 is certified, without the passes over empty cells
  double cpu_seconds = 0;         // of that run
};

/// Equal images are merged. Throws what load_dataset and the solver throw. `say` gets a line now and then.
OtCurve measure_ot_curve(const OtCurveOptions& options, const std::function<void(const std::string&)>& say);

/// For people, and as JSON.
std::string ot_curve_table(const OtCurve& curve);
std::string ot_curve_json(const OtCurve& curve);

}  // namespace mote::apps
