// folds.h - cross-fitting: which fold an example belongs to, so that its prior comes from a model that has not seen it.
// An end-to-end model knows its own training set too well: residuals there are small, on new images they are not, and a
// diffusion trained on the former learns to add nothing.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace mote::resensemble {

/// Fold 0 .. folds - 1 of every example, as even in size as can be, a function of seed and groups alone. Examples of
/// one group (patient, scene, source picture) fall into one fold; no groups: each by itself. Throws Error(usage) unless
/// 2 <= folds <= the number of groups, Error(argument) if groups has another length.
std::vector<int64_t> assign_folds(int64_t count, int64_t folds, uint64_t seed,
                                  const std::vector<std::string>& groups = {});

/// The examples inside (or outside) a fold, ascending.
std::vector<int64_t> members(const std::vector<int64_t>& fold_of, int64_t fold, bool inside);

}  // namespace mote::resensemble
