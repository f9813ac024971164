// seg_synthetic.h - segmentation tasks that are made up, so that size, noise and the true posterior are known. Example
// `index` of a part is a function of (seed, part, index) alone. Read pairs.h first.
#pragma once
#include <string>

#include "apps/pairs.h"

namespace mote::apps {

/// fashionseg28  28 x 28, 2 classes: an item of Fashion-MNIST, scaled by U(0.6, 1) and shifted inside the picture.
///               a in [0, 1] is the item, g = a > 0.1 closed by 3 x 3 the truth, B a field of 4 x 4 uniform numbers,
///               bilinearly enlarged, times 0.6:  image = g (0.3 + 0.7 a) + (1 - g) B + sigma n, clipped to [0, 1],
///               sigma ~ U(0.05, 0.3), n ~ N(0, 1)
/// fashionseg64  64 x 64, 2 classes: the same with 1 to 3 items of 40 pixels x U(0.6, 1), later ones in front
/// digits64      64 x 64, 11 classes (0 to 9 the digit, 10 the ground): 3 to 5 MNIST digits of 28 pixels x U(0.6, 1),
///               likewise; synthetic:digits64:DIR reads the idx files of DIR instead of $MOTE_DATA/mnist
/// discs28       28 x 28, 2 classes, no noise: a disc of radius r ~ U(5, 10), value 0.75 on 0.25, edges by covered
///               area; the truth is the disc of radius r + u, u uniform on {-2, -1, 0, 1, 2} whatever the image is. So
///               P(foreground | image) is the share of the five discs that cover the pixel's centre
///               (Pairs::probability); Pairs::truths holds all five masks.
///                                                                                  [ResEnsemble experiments, 8.0]
/// Items of train and val come from disjoint parts of the train files, those of test from the test files.
/// 10,000 train, 1,000 val, 2,000 test examples, or the first `limit`. Throws Error(usage) for an unknown name, size or
/// channels other than the set's own (one channel; 3 repeats it), Error(data) if the item files are missing.
Pairs make_synthetic_pairs(const PairOptions& options);

/// Whether synthetic:NAME is one of these sets.
bool is_synthetic_pairs(const std::string& spec);

}  // namespace mote::apps
