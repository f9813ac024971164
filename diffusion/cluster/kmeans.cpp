#include "diffusion/cluster/kmeans.h"

#include "tensor/error.h"

namespace mote::cluster {

KMeans kmeans(const Tensor&, const KMeansOptions&) { fail(Error::Kind::argument, "kmeans: not there yet"); }
KMeans kmeans_from(const Tensor&, const Tensor&, const KMeansOptions&) {
  fail(Error::Kind::argument, "kmeans_from: not there yet");
}
Tensor nearest_centre(const Tensor&, const Tensor&) { fail(Error::Kind::argument, "nearest_centre: not there yet"); }

}  // namespace mote::cluster
