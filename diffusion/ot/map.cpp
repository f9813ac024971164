#include "diffusion/ot/map.h"

#include "diffusion/ot/solver.h"

namespace mote::ot {
namespace {
[[noreturn]] void missing() { fail(Error::Kind::argument, "ot: not implemented"); }
}  // namespace
Tensor Source::samples(uint64_t, int64_t, int64_t, DType) const { missing(); }
Source::Kind source_named(const std::string&) { missing(); }
std::string name_of(Source::Kind) { missing(); }
ByteRows idx_rows(const std::string&) { missing(); }
Targets Targets::in_memory(const Tensor&, const TargetOptions&) { missing(); }
Targets Targets::out_of_core(const ByteRows&, const TargetOptions&) { missing(); }
int64_t Targets::count() const { missing(); }
int64_t Targets::width() const { missing(); }
DType Targets::dtype() const { missing(); }
const std::vector<double>& Targets::weights() const { missing(); }
const std::vector<double>& Targets::score_std() const { missing(); }
const Tensor& Targets::mean() const { missing(); }
double Targets::scale() const { missing(); }
int64_t Targets::given(int64_t) const { missing(); }
const Shape& Targets::point_shape() const { missing(); }
Tensor Targets::rows(int64_t, int64_t) const { missing(); }
std::vector<Targets::Span> Targets::chunks() const { missing(); }
Tensor Targets::points(const Tensor&) const { missing(); }
Targets Targets::subset(const std::vector<int64_t>&) const { missing(); }
const std::string& Targets::hash() const { missing(); }
std::optional<Targets> reduce_rank(const Targets&) { missing(); }
Quality measure(const Targets&, const Tensor&, const Source&, uint64_t, int64_t, int64_t) { missing(); }
Quality quality_of(const std::vector<int64_t>&, const std::vector<double>&) { missing(); }
double transport_cost(const Targets&, const Tensor&, const Quality&) { missing(); }
struct Solver::State {};
Solver::Solver(const Targets&, const Source&, const SolverOptions&) { missing(); }
Solver::~Solver() = default;
SolverResult Solver::run(const SolverObserver&) { missing(); }
void Solver::save(const std::string&) const { missing(); }
void Solver::load(const std::string&) { missing(); }
Tensor Solver::heights() const { missing(); }
ClassResult solve_classes(const Targets&, const Tensor&, const Source&, const SolverOptions&,
                          const std::function<bool(int64_t, const SolverProgress&)>&) { missing(); }
Tensor assign(const Targets&, const Tensor&, const Tensor&) { missing(); }
Tensor assign_in_class(const Targets&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { missing(); }
Planes top_planes(const Targets&, const Tensor&, const Tensor&, int64_t) { missing(); }
Tensor plane_angles(const Targets&, const Planes&) { missing(); }
Tensor accepted(const Tensor&, double) { missing(); }
Tensor softmax_weights(const Planes&, const Tensor&, double, double) { missing(); }
Tensor distance_weights(const Planes&, const Tensor&, double, const Tensor&, const Tensor&) { missing(); }
Tensor blend(const Targets&, const Planes&, const Tensor&) { missing(); }
Tensor cell_centres(const Targets&, const Tensor&, const Source&, uint64_t, int64_t) { missing(); }
}  // namespace mote::ot
