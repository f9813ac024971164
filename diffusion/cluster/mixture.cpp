#include "diffusion/cluster/mixture.h"

#include "tensor/error.h"

namespace mote::cluster {
namespace {
[[noreturn]] void missing(const char* name) { fail(Error::Kind::argument, name, ": not there yet"); }
}  // namespace

const char* name_of(Covariance) { missing("name_of"); }
Covariance covariance_named(const std::string&) { missing("covariance_named"); }
int64_t Mixture::parameters() const { missing("parameters"); }
void require_mixture(const char*, const Mixture&) { missing("require_mixture"); }
Tensor log_joint(const Mixture&, const Points&) { missing("log_joint"); }
Posterior posterior(const Mixture&, const Points&) { missing("posterior"); }
double mean_log_likelihood(const Mixture&, const Points&) { missing("mean_log_likelihood"); }
Criteria criteria(const Mixture&, const Points&) { missing("criteria"); }
Tensor sample_component(const Mixture&, int64_t, int64_t, Generator&) { missing("sample_component"); }
MixtureSample sample_mixture(const Mixture&, int64_t, Generator&) { missing("sample_mixture"); }
Mixture rescaled(const Mixture&, const Tensor&, const Tensor&) { missing("rescaled"); }
MixtureFit fit_mixture(const Points&, const MixtureOptions&) { missing("fit_mixture"); }
MixtureFit fit_mixture_from(const Points&, const Mixture&, const MixtureOptions&) { missing("fit_mixture_from"); }
Statistics e_step(const Mixture&, const Points&, const Tensor&) { missing("e_step"); }
Statistics statistics_of(const Mixture&, const Tensor&) { missing("statistics_of"); }
Statistics blend(const Statistics&, const Statistics&, double) { missing("blend"); }
Mixture m_step(const Statistics&, const Mixture&, const MixtureOptions&, double) { missing("m_step"); }
double variance_floor_of(const Points&, const MixtureOptions&) { missing("variance_floor_of"); }
std::vector<OrderFit> fit_orders(const Points&, const std::vector<int64_t>&, const MixtureOptions&,
                                 const std::function<void(const OrderFit&)>&) { missing("fit_orders"); }
size_t best_order(const std::vector<OrderFit>&) { missing("best_order"); }
void save_mixture(const std::string&, const Mixture&, const std::map<std::string, std::string>&) { missing("save_mixture"); }
Mixture load_mixture(const std::string&, std::map<std::string, std::string>*) { missing("load_mixture"); }

}  // namespace mote::cluster
