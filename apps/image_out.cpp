#include "apps/image_out.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "apps/draw.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"

namespace mote::apps {

namespace fs = std::filesystem;

void check_writable(const char* flag, const std::string& path) {
  if (path.empty()) return;
  std::string parent = fs::path(path).parent_path().string();
  if (parent.empty()) parent = ".";
  if (fs::is_directory(path)) fail(Error::Kind::usage, flag, ": ", path, " is a folder; a file name is needed");
  if (access(parent.c_str(), W_OK | X_OK) != 0)
    fail(Error::Kind::resource, flag, ": cannot write into ", parent, ": ", std::strerror(errno));
}

void ImageOutputs::add_options(CLI::App& sub) {
  sub.add_option("--out", out, "a PNG with all images; FILE.json beside it tells how they were made")->group("Output");
  sub.add_option("--columns", columns, "images a row of --out (default: as square as can be)")->group("Output");
  sub.add_option("--dir", dir, "a folder for single PNGs")->group("Output");
  sub.add_option("--npy", npy, "all images as a NumPy array, f32 [N, H, W, C]")->group("Output");
}

void ImageOutputs::check() const {
  if (columns != -1 && columns < 1) fail(Error::Kind::usage, "--columns: must be 1 or more, got ", columns);
  check_writable("--out", out);
  check_writable("--npy", npy);
}

namespace {

void save_folder(const std::string& folder, const Tensor& images) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(Error::Kind::resource, "--dir: cannot make ", folder, ": ", error.message());
  for (int64_t i = 0; i < images.size(0); ++i) {
    char name[32];
    std::snprintf(name, sizeof name, "/%06lld.png", static_cast<long long>(i));
    io::save_png(folder + name, io::image_grid(images.rows(i, i + 1), 1, 0));
  }
}

}  // namespace

std::vector<std::string> ImageOutputs::save(const Tensor& images, const nlohmann::ordered_json& sidecar) const {
  std::vector<std::string> files;
  std::string text = sidecar.dump(2) + "\n";
  if (!out.empty()) {
    io::save_png(out, io::image_grid(images, columns > 0 ? columns : grid_columns(images.size(0))));
    io::write_file_atomic(out + ".json", text);
    files.push_back(out);
  }
  if (!npy.empty()) {
    io::save_npy(npy, images);
    io::write_file_atomic(npy + ".json", text);
    files.push_back(npy);
  }
  if (!dir.empty()) {
    save_folder(dir, images);
    io::write_file_atomic(dir + "/samples.json", text);
    files.push_back(dir);
  }
  return files;
}

}  // namespace mote::apps
