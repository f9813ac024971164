#include "diffusion/resensemble/folds.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "tensor/error.h"
#include "tensor/random.h"

namespace mote::resensemble {

std::vector<int64_t> assign_folds(int64_t count, int64_t folds, uint64_t seed, const std::vector<std::string>& groups) {
  check(groups.empty() || int64_t(groups.size()) == count, "assign_folds: ", count, " examples, but ", groups.size(),
        " groups");
  std::map<std::string, std::vector<int64_t>> by_name;
  std::vector<std::vector<int64_t>> sets;
  for (int64_t i = 0; i < count; ++i)
    if (groups.empty()) sets.push_back({i});
    else by_name[groups[size_t(i)]].push_back(i);
  for (auto& entry : by_name) sets.push_back(std::move(entry.second));
  if (folds < 2 || folds > int64_t(sets.size()))
    fail(Error::Kind::usage, "folds: ", folds, " asked for, needs 2 to the number of ",
         groups.empty() ? "examples" : "groups", ", ", sets.size());
  Generator shuffle = Generator{seed}.fork(0x666f6c64);   // "fold"
  for (size_t i = sets.size() - 1; i > 0; --i) std::swap(sets[i], sets[random_bits(shuffle, i) % (i + 1)]);
  // The largest groups first, each to the smallest fold so far: groups of one give folds that differ by one at most.
  std::stable_sort(sets.begin(), sets.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  std::vector<int64_t> fold_of(size_t(count), 0), sizes(size_t(folds), 0);
  for (const std::vector<int64_t>& set : sets) {
    int64_t fold = std::min_element(sizes.begin(), sizes.end()) - sizes.begin();
    for (int64_t i : set) fold_of[size_t(i)] = fold;
    sizes[size_t(fold)] += int64_t(set.size());
  }
  return fold_of;
}

std::vector<int64_t> members(const std::vector<int64_t>& fold_of, int64_t fold, bool inside) {
  std::vector<int64_t> list;
  for (size_t i = 0; i < fold_of.size(); ++i)
    if ((fold_of[i] == fold) == inside) list.push_back(int64_t(i));
  return list;
}

}  // namespace mote::resensemble
