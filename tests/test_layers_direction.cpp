// The architecture, read off the sources: includes point one way, and only apps/ prints or exits.
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>

#include "tests/catch.h"

namespace {

namespace fs = std::filesystem;

// Each layer may include itself and those before it.
const std::vector<std::string> kLayers = {"tensor", "autograd", "nn", "diffusion", "apps"};

fs::path root() { return fs::path(MOTE_TESTS_DIR).parent_path(); }

/// Place of the layer in kLayers, -1 for anything else.
int layer_of(const std::string& path) {
  std::string first = path.substr(0, path.find('/'));
  for (size_t i = 0; i < kLayers.size(); ++i)
    if (first == kLayers[i]) return int(i);
  return -1;
}

struct Line {
  std::string file;   // from the root of the repository
  int number;
  std::string text;
};

bool is_source(const fs::path& path) {
  static const std::set<std::string> endings = {".h", ".cpp", ".cu", ".cuh"};
  return endings.count(path.extension().string()) == 1;
}

/// Every line of the sources of `layer`, without what follows a comment sign.
std::vector<Line> lines_of(const std::string& layer) {
  std::vector<Line> lines;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root() / layer)) {
    if (!entry.is_regular_file() || !is_source(entry.path())) continue;
    std::ifstream file(entry.path());
    int number = 0;
    for (std::string text; std::getline(file, text);)
      lines.push_back({fs::relative(entry.path(), root()).generic_string(), ++number, text.substr(0, text.find("//"))});
  }
  return lines;
}

/// The file named by an #include "..." line, empty for any other line.
std::string included(const std::string& line) {
  static const std::regex pattern(R"(^\s*#\s*include\s*["<]([^">]+)[">])");
  std::smatch match;
  return std::regex_search(line, match, pattern) ? match[1].str() : "";
}

bool points_upward(const std::string& file, const std::string& include) {
  return layer_of(include) > layer_of(file) || include.rfind("tests/", 0) == 0 || include.find("..") != std::string::npos;
}

/// What only apps/ may do; empty if the line does none of it.
std::string forbidden(const std::string& line) {
  static const std::regex pattern(
      R"(std::c(out|err|log)\b|\b(printf|fprintf|puts|fputs|putchar)\s*\(|(^|[^\w.>])((std)?::)?(exit|_Exit|quick_exit|abort)\s*\()");
  std::smatch match;
  return std::regex_search(line, match, pattern) ? match[0].str() : "";
}

}  // namespace

TEST_CASE("no layer includes a layer above it", "[architecture]") {
  int includes = 0;
  for (const std::string& layer : kLayers) {
    if (!fs::exists(root() / layer)) continue;
    for (const Line& line : lines_of(layer)) {
      std::string target = included(line.text);
      if (target.empty()) continue;
      ++includes;
      INFO(line.file << ":" << line.number << " includes " << target);
      CHECK(!points_upward(line.file, target));
    }
  }
  CHECK(includes > 100);   // the scan has seen the sources
}

TEST_CASE("an include that points upward is recognised", "[architecture]") {
  CHECK(points_upward("tensor/tensor.cpp", included("#include \"autograd/engine.h\"")));
  CHECK(points_upward("autograd/ops_nn.cpp", included("  # include <nn/layers.h>")));
  CHECK(points_upward("nn/unet.cpp", included("#include \"diffusion/schedule.h\"")));
  CHECK(points_upward("diffusion/process.cpp", included("#include \"apps/dataset.h\"")));
  CHECK(points_upward("apps/bench.cpp", included("#include \"tests/support.h\"")));
  CHECK(points_upward("nn/unet.cpp", included("#include \"../diffusion/schedule.h\"")));
  CHECK(!points_upward("apps/bench.cpp", included("#include \"tensor/tensor.h\"")));
  CHECK(!points_upward("tensor/cpu/gemm.cpp", included("#include <vector>")));
}

TEST_CASE("nothing below apps prints, exits or aborts", "[architecture]") {
  // The allocator's guard finds memory that has been overwritten: it cannot go on, and cannot throw from a release.
  const std::set<std::string> may_abort = {"tensor/allocator.cpp"};
  for (const std::string& layer : kLayers) {
    if (layer == "apps") continue;
    for (const Line& line : lines_of(layer)) {
      INFO(line.file << ":" << line.number << ": " << line.text);
      std::string found = forbidden(line.text);
      if (may_abort.count(line.file) == 0) CHECK(found == "");
    }
  }
}

TEST_CASE("printing, exits and aborts are recognised", "[architecture]") {
  CHECK(forbidden("  std::cout << x;") != "");
  CHECK(forbidden("  std::cerr << x;") != "");
  CHECK(forbidden("  std::fprintf(stderr, \"x\");") != "");
  CHECK(forbidden("  printf(\"x\");") != "");
  CHECK(forbidden("  std::abort();") != "");
  CHECK(forbidden("  ::exit(1);") != "");
  CHECK(forbidden("exit (1);") != "");
  CHECK(forbidden("  pool.exit(1);") == "");
  CHECK(forbidden("  on_exit(1);") == "");
  CHECK(forbidden("  snprintf(text, 10, \"x\");") == "");
}
