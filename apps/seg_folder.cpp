#include "apps/seg_folder.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "apps/dataset.h"
#include "tensor/error.h"
#include "tensor/io/file.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostText = int64_t(64) << 20;
constexpr int64_t kValEvery = 10;   // groups of the train part

std::string without_ending(const std::string& name) { return fs::path(name).stem().string(); }

std::map<std::string, std::string> list_by_name(const std::string& folder) {
  std::map<std::string, std::string> paths;
  for (const std::string& name : picture_names(folder)) {
    auto [entry, is_new] = paths.emplace(without_ending(name), folder + "/" + name);
    if (!is_new) fail(Error::Kind::data, folder, "/", name, ": ", entry->second, " has the same name");
  }
  if (paths.empty()) fail(Error::Kind::data, folder, ": has no pictures (png, jpg, bmp, pgm, ppm)");
  return paths;
}

/// Trimmed lines of a text file with their numbers; empty ones and those that start with # are left out.
std::vector<std::pair<int64_t, std::string>> lines_of(const std::string& path) {
  io::Bytes bytes = io::read_file(path, kMostText);
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<std::pair<int64_t, std::string>> lines;
  int64_t number = 1;
  for (size_t begin = 0; begin < text.size(); ++number) {
    size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    size_t first = line.find_first_not_of(" \t\r"), last = line.find_last_not_of(" \t\r");
    if (first != std::string_view::npos && line[first] != '#')
      lines.emplace_back(number, std::string(line.substr(first, last - first + 1)));
  }
  return lines;
}

std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells;
  for (size_t begin = 0; begin <= line.size();) {
    size_t end = std::min(line.find(',', begin), line.size());
    cells.push_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return cells;
}

/// The name of an image of the folder as a list writes it, with or without ending.
std::string listed_image(const PairFolder& folder, const std::string& name, const std::string& path, int64_t line) {
  for (const std::string& candidate : {name, without_ending(name)})
    if (folder.images.count(candidate)) return candidate;
  fail(Error::Kind::data, path, ": line ", line, " names ", io::printable(name), ", which is not in ", folder.root,
       "/images");
}

void read_index(PairFolder& folder, const std::string& path, bool with_parts) {
  std::vector<std::pair<int64_t, std::string>> lines = lines_of(path);
  std::vector<std::string> header = lines.empty() ? std::vector<std::string>{} : cells_of(lines[0].second);
  auto column = [&](const char* name) {
    return size_t(std::find(header.begin(), header.end(), name) - header.begin());
  };
  size_t file = column("file"), split = column("split"), group = std::min(column("group"), column("tile_group"));
  if (file == header.size()) fail(Error::Kind::data, path, ": has no column `file`; its first line names the columns");
  with_parts = with_parts && split < header.size();
  for (size_t i = 1; i < lines.size(); ++i) {
    auto [number, line] = lines[i];
    std::vector<std::string> cells = cells_of(line);
    if (cells.size() != header.size())
      fail(Error::Kind::data, path, ": line ", number, " has ", cells.size(), " columns, the first line ",
           header.size());
    std::string name = listed_image(folder, cells[file], path, number);
    if (group < header.size()) folder.groups[name] = cells[group];
    if (!with_parts) continue;
    if (std::find(std::begin(kParts), std::end(kParts), cells[split]) == std::end(kParts))
      fail(Error::Kind::data, path, ": line ", number, " has the split ", io::printable(cells[split]),
           "; train, val and test are known");
    folder.parts[cells[split]].push_back(name);
  }
}

void read_parts(PairFolder& folder) {
  auto list = [&](const char* part) { return folder.root + "/" + part + ".txt"; };
  bool has_lists =
      std::any_of(std::begin(kParts), std::end(kParts), [&](const char* part) { return fs::exists(list(part)); });
  std::string index = folder.root + "/index.csv";
  if (has_lists && !fs::exists(list("train")))
    fail(Error::Kind::data, list("train"), ": is missing, and another part has a list");
  for (const char* part : kParts) {
    if (!has_lists || !fs::exists(list(part))) continue;
    for (const auto& [number, name] : lines_of(list(part)))
      folder.parts[part].push_back(listed_image(folder, name, list(part), number));
  }
  if (fs::exists(index)) read_index(folder, index, !has_lists);
  if (!has_lists && folder.parts.empty())
    for (const auto& [name, path] : folder.images) folder.parts["train"].push_back(name);
  std::map<std::string, std::string> part_of;
  for (const auto& [part, names] : folder.parts)
    for (const std::string& name : names)
      if (auto [entry, is_new] = part_of.emplace(name, part); !is_new)
        fail(Error::Kind::data, folder.root, ": ", name, " is listed twice, in ", entry->second, " and ", part);
  if (folder.parts["train"].empty()) fail(Error::Kind::data, folder.root, ": no image is in the train part");
}

}  // namespace

PairFolder open_folder(const std::string& root) {
  PairFolder folder{root, "masks", {}, {}, {}, {}, {}};
  std::error_code ignored;
  auto is_folder = [&](const std::string& path) { return fs::is_directory(path, ignored); };
  if (!is_folder(root + "/images"))
    fail(Error::Kind::data, root, ": has no folder images; pairs:DIR needs DIR/images and DIR/masks (or labels)");
  bool has_masks = is_folder(root + "/masks"), has_labels = is_folder(root + "/labels");
  if (has_masks == has_labels)
    fail(Error::Kind::data, root, has_masks ? ": has both masks and labels; one of them is needed"
                                            : ": has no folder masks or labels beside images");
  if (has_labels) folder.masks_name = "labels";
  folder.images = list_by_name(root + "/images");
  folder.masks = list_by_name(root + "/" + folder.masks_name);
  for (const auto& [name, path] : folder.masks)
    if (!folder.images.count(name))
      folder.strays.push_back(concat_text(path, ": there is no image ", name, " in ", root, "/images"));
  read_parts(folder);
  return folder;
}

void cut_validation(PairFolder& folder) {
  if (!folder.parts["val"].empty()) return;
  std::vector<std::string>& train = folder.parts["train"];
  auto group_of = [&](const std::string& name) {
    auto found = folder.groups.find(name);
    return found == folder.groups.end() ? "image " + name : "group " + found->second;
  };
  std::vector<std::string> sorted = train, order;
  std::sort(sorted.begin(), sorted.end());
  std::set<std::string> seen, chosen;
  for (const std::string& name : sorted)
    if (seen.insert(group_of(name)).second) order.push_back(group_of(name));
  if (order.size() < 2) return;   // one group cannot be divided: there is no validation part
  size_t every = std::min<size_t>(size_t(kValEvery), order.size());
  for (size_t i = every / 2; i < order.size(); i += every) chosen.insert(order[i]);
  auto kept = std::stable_partition(train.begin(), train.end(),
                                    [&](const std::string& name) { return !chosen.count(group_of(name)); });
  folder.parts["val"].assign(kept, train.end());
  train.erase(kept, train.end());
}

}  // namespace mote::apps
