// What a GPU computes, against the CPU: every op, random numbers, training, graphs. Each check runs on the emulated
// GPU, in small, and under the tag [cuda] on the first real one.
#include <set>

#include "apps/draw.h"
#include "autograd/ops.h"
#include "nn/optim.h"
#include "nn/unet.h"
#include "tensor/graph.h"
#include "tests/cuda_host/gpu.h"
#include "tests/nn_support.h"
#include "tests/op_checks.h"
#include "tests/skips.h"

using namespace mote;
using namespace mote::test;

namespace {

const std::vector<DType> kF32 = {DType::f32}, kBoth = {DType::f32, DType::bf16};

std::vector<Tensor> moved(const std::vector<Tensor>& tensors, Device device) {
  std::vector<Tensor> result;
  for (const Tensor& tensor : tensors) result.push_back(tensor.to(device));
  return result;
}

/// `tensor` in the middle of a buffer of NaN: no alignment, and a read outside shows.
Tensor in_the_middle(const Tensor& tensor, int64_t before, Device device) {
  Tensor buffer = full({tensor.numel() + before + 5}, is_floating(tensor.dtype()) ? NAN : -1e6, tensor.dtype());
  buffer.rows(before, before + tensor.numel()).view(tensor.shape()).copy_(tensor);
  return buffer.to(device).rows(before, before + tensor.numel()).view(tensor.shape());
}

struct Coverage {
  int64_t compared = 0;
  std::set<std::string> without;   // kernels that were asked for and have no CUDA version
};

/// Runs `row` on the GPU and holds it against its f64 reference and, backward, against the CPU in f64.
void check_row(const Row& row, const std::vector<Shape>& shapes, DType dtype, Device device, int64_t before,
               Coverage& coverage) {
  INFO(row.name() << " in " << dtype << (before ? ", inside a buffer" : "") << ", seed " << row.seed());
  std::vector<Tensor> inputs = converted(row.make_inputs(shapes), dtype), fixed = row.make_fixed(shapes);
  std::vector<Tensor> there = moved(inputs, device);
  if (before)
    for (size_t i = 0; i < inputs.size(); ++i) there[i] = in_the_middle(inputs[i], before, device);
  Result got;
  try {
    got = run_row(row, there, moved(fixed, device));
  } catch (const Error& error) {
    std::string text = error.what();
    if (!contains(text, "has no CUDA kernel in this version")) throw;
    coverage.without.insert(text.substr(0, text.find(':')));
    return;
  }
  CHECK(got.y.device() == device);
  Result expected = run_row(row, converted(inputs, DType::f64), fixed);
  if (is_floating(got.y.dtype()))
    CHECK(compare(got.y, expected.y, forward_tolerance(row, got.y.dtype())) == "");
  else
    CHECK(got.y.to_vector() == run_row(row, inputs, fixed).y.to_vector());
  double tolerance = dtype == DType::f32 ? row.f32_tolerance : row.bf16_gradient_tolerance;
  for (size_t i = 0; i < got.gradients.size(); ++i) {
    INFO("gradient of input " << i);
    CHECK(got.gradients[i].device() == device);
    CHECK(got.gradients[i].dtype() == dtype);
    CHECK(compare(got.gradients[i], expected.gradients[i], tolerance) == "");
  }
  ++coverage.compared;
}

/// `where`: how many elements into a buffer the inputs begin, one check each.
void check_ops(Device device, const std::vector<DType>& dtypes, const std::vector<int64_t>& where, bool large,
               const cuda::Kernels& kernels) {
  Coverage coverage;
  for (DType dtype : dtypes)
    for (const Row& row : op_table()) {
      for (int64_t before : where) check_row(row, row.shapes, dtype, device, before, coverage);
      if (large && !row.large.empty()) check_row(row, row.large, dtype, device, 0, coverage);
    }
  std::vector<std::string_view> missing = cuda::missing_kernels(kernels);
  for (const std::string& name : coverage.without) {
    INFO(name);
    CHECK(std::count(missing.begin(), missing.end(), name) == 1);
  }
  if (missing.empty()) CHECK(coverage.compared >= int64_t(dtypes.size() * where.size() * op_table().size()));
  if (!missing.empty()) skip(concat_text("ops of ", missing.size(), " kernels that have no CUDA version yet"));
}

void check_draws(Device device) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (int64_t n : {1, 5, 1023, 4099}) {
      INFO(n << " of " << dtype);
      for (uint64_t offset : {uint64_t(0), uint64_t(3), (uint64_t(1) << 33) + 1}) {
        Generator here{11, offset}, there = here;
        CHECK(same_bits(normal({n}, dtype, here), normal({n}, dtype, there, device).to(Device{})));
        CHECK(same_bits(uniform({n}, dtype, here), uniform({n}, dtype, there, device).to(Device{})));
        CHECK(here == there);
      }
    }
  Generator here{12}, there{12};
  CHECK(same_bits(randint(-5, 1000, {777}, here), randint(-5, 1000, {777}, there, device).to(Device{})));
}

/// Losses of `steps` steps on fixed images.
std::vector<double> losses(const nn::UNetConfig& config, DType precision, int steps, int64_t batch, Device device) {
  nn::UNet unet(config, 5);
  unet.set_precision(precision);
  unet.to(device);
  nn::Arena arena(unet);
  nn::Optimizer optimizer(arena, {.lr = 1e-3, .warmup = 2, .ema = 0.9});
  Shape shape{batch, config.size, config.size, config.channels};
  std::vector<double> all;
  for (int step = 0; step < steps; ++step) {
    Generator generator = Generator{21}.fork(uint64_t(step));
    Tensor x = normal(shape, DType::f32, generator, device), target = normal(shape, DType::f32, generator, device);
    Tensor t = full({batch}, 37.0 * step, DType::f32, device);
    arena.zero_grad();
    Tensor loss = mse_loss(unet.forward(x, t), 0.5 * x + 0.1 * target);
    backward(loss);
    optimizer.step();
    all.push_back(loss.item());
  }
  return all;
}

void check_training(Device device, nn::UNetConfig config, const std::vector<DType>& precisions, int steps,
                    int64_t batch) {
  config.dropout = 0.1;   // the same elements are dropped on every device
  for (DType precision : precisions) {
    INFO(precision);
    std::vector<double> expected = losses(config, precision, steps, batch, Device{});
    std::vector<double> got = losses(config, precision, steps, batch, device);
    // Sums are in another order; in bf16 each activation may round the other way, and steps carry that on.
    double tolerance = precision == DType::f32 ? 1e-3 : 3e-2;
    for (size_t i = 0; i < got.size(); ++i) {
      INFO("step " << i);
      CHECK(got[i] == Approx(expected[i]).epsilon(tolerance));
    }
    if (steps >= 10) CHECK(got.back() < 0.8 * got.front());
  }
}

void check_graph(Device device, const nn::UNetConfig& config, int64_t batch, int calls) {
  nn::UNet unet(config, 5);
  unet.train(false);
  unet.to(device);
  NoGrad no_grad;
  Shape shape{batch, config.size, config.size, config.channels};
  Tensor x = zeros(shape, DType::f32, device), t = zeros({batch}, DType::f32, device), y;
  {
    Graph graph(device);
    for (int call = 0; call < calls; ++call) {
      INFO("call " << call);
      x.copy_(normal(shape, DType::f32, Generator{uint64_t(call)}, device));
      t.fill_(100 * call + 3);
      graph.run([&] { y = unet.forward(x, t); });
      CHECK(graph.is_recorded() == (call > 0));
      CHECK(same_bits(y.to(Device{}), unet.forward(x, t).to(Device{})));
    }
    y = {};
  }
}

/// Steps with dropout, from the second on replayed, against the same steps launched one by one; outcomes read at the end.
void check_replayed_training(Device device, nn::UNetConfig config, int64_t batch, int steps) {
  config.dropout = 0.3;
  auto run = [&](bool replayed) {
    nn::UNet unet(config, 5);
    unet.to(device);
    nn::Arena arena(unet);
    nn::Optimizer optimizer(arena, {.lr = 1e-2});
    Shape shape{batch, config.size, config.size, config.channels};
    Tensor x = zeros(shape, DType::f32, device), t = zeros({batch}, DType::f32, device);
    std::optional<Graph> graph;
    if (replayed) graph.emplace(device);
    Tensor loss;
    for (int step = 0; step < steps; ++step) {
      x.copy_(normal(shape, DType::f32, Generator{uint64_t(step)}, device));
      t.fill_(100 * step + 3);
      auto pass = [&] {
        arena.zero_grad();
        loss = mse_loss(unet.forward(x, t), 0.5 * x);
        backward(loss);
      };
      if (graph) graph->run(pass, unet.generator());
      else pass();
      optimizer.queue(loss);
    }
    std::vector<double> all;
    for (const nn::StepOutcome& outcome : optimizer.read()) all.insert(all.end(), {outcome.loss, outcome.grad_norm});
    all.push_back(double(unet.generator().offset));
    std::vector<double> weights = arena.values().to(Device{}).to_vector();
    all.insert(all.end(), weights.begin(), weights.end());
    return all;
  };
  CHECK(run(true) == run(false));
}

/// Images drawn step by step, the network replayed from the second call on; two batch sizes, one recording each.
void check_sampling(Device device, nn::UNetConfig config, const std::string& sampler, int64_t steps) {
  config.classes = 3;
  auto drawn = [&](Device on) {
    nn::UNet unet(config, 5);
    unet.to(on);
    apps::DrawOptions options{.sampler = {.name = sampler, .steps = steps}, .count = 3, .batch = 2, .seed = 4,
                              .class_ids = arange(3)};
    return apps::draw_images(unet, Schedule::linear(), options, on);
  };
  // The products of all steps sum in another order; images lie in [-1, 1] and samples stay of that size.
  CHECK(difference(drawn(device), drawn(Device{}), 1e-3, 1e-3) == "");
}

/// Small enough for the emulator, with every kind of block.
nn::UNetConfig emulated_config() {
  nn::UNetConfig config = small_config();
  config.base = 8;
  return config;
}

nn::UNetConfig real_config() { return nn::UNetConfig::preset("tiny").fit(16, 3); }

/// The GPU of a [cuda] test, or nullptr after the reason has been counted.
const RealGpu* real_gpu() {
  static const RealGpu gpu;
  if (gpu.is_there()) return &gpu;
  skip(gpu.why_not);
  return nullptr;
}
bool emulator_lacks_kernels() {
  size_t missing = cuda::missing_kernels(EmulatedGpu::kernels()).size();
  if (missing > 0) skip(concat_text(missing, " kernels have no CUDA version yet"));
  return missing > 0;
}

}  // namespace

// ---- On the emulated GPU -------------------------------------------------------------------------------------------

TEST_CASE("every op agrees with its f64 reference on an emulated GPU, forward and backward", "[cuda_host][ops][grad]") {
  Threads one(1);
  EmulatedGpu gpu;
  if (!kSanitized) check_ops(gpu.device(), kF32, {0}, false, EmulatedGpu::kernels());
  check_ops(gpu.device(), {DType::bf16}, kSanitized ? std::vector<int64_t>{3} : std::vector<int64_t>{0, 3}, false,
            EmulatedGpu::kernels());
}

TEST_CASE("an emulated GPU draws the same bits as the CPU", "[cuda_host][random]") {
  if (emulator_lacks_kernels()) return;
  EmulatedGpu gpu;
  check_draws(gpu.device());
}

TEST_CASE("a network trains on an emulated GPU as on the CPU", "[cuda_host]") {
  if (emulator_lacks_kernels()) return;
  EmulatedGpu gpu;
  check_training(gpu.device(), emulated_config(), kF32, kSanitized ? 1 : 2, 1);
  if (!kSanitized) check_training(gpu.device(), emulated_config(), {DType::bf16}, 1, 1);
}

TEST_CASE("a network replayed on an emulated GPU gives the bits of its first run", "[cuda_host]") {
  if (emulator_lacks_kernels()) return;
  EmulatedGpu gpu;
  check_graph(gpu.device(), emulated_config(), 1, 3);
}

TEST_CASE("training replayed on an emulated GPU gives the bits of launches one by one", "[cuda_host]") {
  if (kSanitized || emulator_lacks_kernels()) return;   // no code that the tests before do not run
  EmulatedGpu gpu;
  check_replayed_training(gpu.device(), emulated_config(), 1, 4);
}

TEST_CASE("images drawn on an emulated GPU are those of the CPU", "[cuda_host]") {
  if (kSanitized || emulator_lacks_kernels()) return;   // no code that the test before does not run
  EmulatedGpu gpu;
  check_sampling(gpu.device(), emulated_config(), "ddim", 2);
}

// ---- On a real one -------------------------------------------------------------------------------------------------

TEST_CASE("every op agrees with its f64 reference on the GPU, forward and backward", "[cuda][ops][grad]") {
  if (const RealGpu* gpu = real_gpu()) check_ops(gpu->device, kBoth, {0, 3}, true, cuda::built_in_backend().kernels);
}

TEST_CASE("the GPU draws the same bits as the CPU", "[cuda][random]") {
  if (const RealGpu* gpu = real_gpu()) check_draws(gpu->device);
}

TEST_CASE("a network trains on the GPU as on the CPU", "[cuda]") {
  if (const RealGpu* gpu = real_gpu()) check_training(gpu->device, real_config(), kBoth, 20, 4);
}

TEST_CASE("a network replayed on the GPU gives the bits of its first run", "[cuda]") {
  if (const RealGpu* gpu = real_gpu()) check_graph(gpu->device, real_config(), 4, 5);
}

TEST_CASE("training replayed on the GPU gives the bits of launches one by one", "[cuda]") {
  if (const RealGpu* gpu = real_gpu()) check_replayed_training(gpu->device, real_config(), 4, 8);
}

TEST_CASE("images drawn on the GPU are those of the CPU", "[cuda]") {
  if (const RealGpu* gpu = real_gpu()) check_sampling(gpu->device, real_config(), "plms", 10);
}

TEST_CASE("a GPU gives the same bits twice", "[cuda]") {
  const RealGpu* gpu = real_gpu();
  if (!gpu) return;
  auto run = [&] { return losses(real_config(), DType::bf16, 3, 4, gpu->device); };
  CHECK(run() == run());
}

TEST_CASE("every op runs on the GPU in small, forward and backward", "[cuda][sanitizer]") {
  const RealGpu* gpu = real_gpu();
  if (!gpu) return;
  for (DType dtype : {DType::f32, DType::bf16})
    for (const Row& row : op_table()) {
      INFO(row.name() << " in " << dtype);
      std::vector<Tensor> inputs = converted(row.make_inputs(row.shapes), dtype), fixed = row.make_fixed(row.shapes);
      CHECK(run_row(row, moved(inputs, gpu->device), moved(fixed, gpu->device)).y.device() == gpu->device);
    }
}
