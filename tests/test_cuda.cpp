// What the program asks of a GPU, on an emulated one: memory, copies, graphs, errors. Kernels: test_cuda_*.cpp.
#include "tensor/cuda/architectures.h"
#include "tensor/graph.h"
#include "tests/cuda_host/gpu.h"
#include "tests/cuda_host/hardware.h"
#include "tests/support.h"

using namespace mote;
using test::EmulatedGpu;
using Catch::Matchers::Contains;

namespace {

Tensor bytes_of(const Tensor& tensor) { return tensor.to(Device{}); }

std::string refusal(const std::function<void()>& call, Error::Kind kind) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.kind() == kind);
    return error.what();
  }
  return "no error";
}

struct AddOne {
  static constexpr int kThreads = 64;
  cuda_host::hw::Ptr<float> y;
  cuda_host::hw::Ptr<const float> x;
  int64_t n;
  MOTE_DEVICE void operator()() const {
    for (int64_t i = cuda_host::hw::global_thread(); i < n; i += cuda_host::hw::global_threads()) y[i] = x[i] + 1;
  }
};
void add_one(Tensor& y, const Tensor& x) {
  namespace hw = cuda_host::hw;
  hw::launch("add_one", {hw::blocks_for(x.numel(), 64), 64}, AddOne{hw::ptr<float>(y), hw::ptr<float>(x), x.numel()});
}

}  // namespace

TEST_CASE("code runs on the devices that its architectures cover", "[cuda_host]") {
  using cuda::architectures_cover;
  CHECK(architectures_cover("80", 80));
  CHECK(architectures_cover("80", 86));
  CHECK_FALSE(architectures_cover("86", 80));
  CHECK_FALSE(architectures_cover("80", 90));
  CHECK(architectures_cover("80,90a", 90));
  CHECK_FALSE(architectures_cover("80,90a", 100));   // what 90a has is in no other
  CHECK(architectures_cover("80,90-virtual", 120));
  CHECK_FALSE(architectures_cover("90-virtual", 89));
  CHECK_FALSE(architectures_cover("", 80));
}

TEST_CASE("a device that cannot be used says why", "[cuda_host]") {
  const Device far{Device::cuda, 63};
  CHECK_THAT(refusal([&] { zeros({2}, DType::f32, far); }, Error::Kind::resource), Contains("cuda:63 asked for, but "));
  CHECK_THAT(refusal([&] { zeros({2}).to(far); }, Error::Kind::resource), Contains("cuda:63 asked for, but "));
  EmulatedGpu gpu;
  CHECK_THAT(refusal([&] { zeros({2}).to(far); }, Error::Kind::resource), Contains("only one GPU is emulated"));
  CHECK(zeros({2}).to(gpu.device()).is_cuda());
}

TEST_CASE("a kernel without a CUDA version is refused by name and listed as missing", "[cuda_host]") {
  EmulatedGpu gpu;
  cuda::Kernels none;
  CHECK(cuda::missing_kernels(none).size() > 40);
  CHECK(cuda::missing_kernels(none)[0] == "fill");
  cuda::backend().kernels = none;
  CHECK_THAT(refusal([&] { zeros({2}, DType::f32, gpu.device()); }, Error::Kind::resource),
             Contains("fill: has no CUDA kernel in this version"));
}

TEST_CASE("tensors go to the GPU and back unchanged", "[cuda_host]") {
  EmulatedGpu gpu;
  for (DType dtype : {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8}) {
    Tensor x = arange(77).to(dtype), there = x.to(gpu.device()), back = bytes_of(there);
    CHECK(there.is_cuda());
    CHECK(there.dtype() == dtype);
    CHECK(test::difference(back, x, 0, 0) == "");
    CHECK(test::difference(bytes_of(there.rows(5, 9)), x.rows(5, 9), 0, 0) == "");
  }
  CHECK(zeros({0, 3}).to(gpu.device()).shape() == Shape{0, 3});
}

TEST_CASE("a full GPU gives cached blocks back, then says what is missing", "[cuda_host]") {
  EmulatedGpu gpu;
  gpu.limit_memory(10 << 20);
  Allocator& allocator = Allocator::of(gpu.device());
  auto mib = [&](int64_t n) { return empty({n << 20}, DType::u8, gpu.device()); };
  mib(8);
  CHECK(allocator.stats().cached == 8 << 20);
  Tensor kept = mib(4);   // does not fit beside the cached block
  CHECK(allocator.stats().cached == 0);
  CHECK(allocator.stats().in_use == 4 << 20);
  CHECK_THAT(refusal([&] { mib(7); }, Error::Kind::resource),
             Contains("out of memory on cuda:0: 7340032 bytes asked, 4194304 in use, 0 cached, 6291456 free of the "
                      "device's 10485760; a smaller --batch needs less"));
}

TEST_CASE("fresh memory of a GPU is poisoned and its end guarded where that is asked for", "[cuda_host]") {
  EmulatedGpu gpu;
  Allocator& allocator = Allocator::of(gpu.device());
  allocator.set_debug(true, true);
  {
    Tensor x = arange(8).to(DType::f32).to(gpu.device());
    CHECK(bytes_of(x).to_vector()[7] == 7);
  }
  Tensor x = empty({8}, DType::f32, gpu.device());
  for (double value : bytes_of(x).to_vector()) CHECK(std::isnan(value));
  x = {};
  allocator.set_debug(false, false);
}

TEST_CASE("a pool keeps its blocks from others until it ends", "[allocator]") {
  Allocator& allocator = Allocator::of({});
  allocator.trim();
  constexpr size_t kBytes = 1 << 16;
  void *inside, *kept;
  {
    Allocator::Pool pool(allocator), other(allocator);
    pool.open();
    CHECK_THAT(refusal([&] { other.open(); }, Error::Kind::argument), Contains("another pool of cpu is open"));
    inside = allocator.allocate(kBytes);
    kept = allocator.allocate(kBytes);
    allocator.release(inside, kBytes);
    CHECK(allocator.allocate(kBytes) == inside);   // reused inside
    pool.close();
    allocator.release(inside, kBytes);             // and not outside, wherever it is released
    void* outside = allocator.allocate(kBytes);
    CHECK(outside != inside);
    allocator.release(outside, kBytes);
    pool.open();
    CHECK(allocator.allocate(kBytes) == inside);
    allocator.release(inside, kBytes);
  }
  void* first = allocator.allocate(kBytes);   // the pool has ended: its free block is anyone's
  void* second = allocator.allocate(kBytes);
  CHECK((first == inside || second == inside));
  CHECK(first != kept);
  CHECK(second != kept);
  allocator.release(kept, kBytes);            // and so is one that outlived it
  CHECK(allocator.allocate(kBytes) == kept);
  for (void* block : {first, second, kept}) allocator.release(block, kBytes);
  allocator.trim();
}

TEST_CASE("a graph repeats what was recorded on what its inputs now hold", "[cuda_host]") {
  EmulatedGpu gpu;
  Device device{GENERATE(Device::cpu, Device::cuda)};
  INFO(device);
  Tensor x = zeros({100}).to(device), y;
  std::vector<double> seen;
  int calls = 0;
  {
    Graph graph(device);
    for (int i = 0; i < 4; ++i) {
      Tensor now = full({100}, 10.0 * i);
      cuda::backend().copy(device, x.raw(), {}, now.raw(), size_t(now.nbytes()));
      graph.run([&] {
        ++calls;
        Tensor middle = empty_like(x);
        add_one(middle, x);
        Tensor last = empty_like(x);
        add_one(last, middle);
        middle = {};
        y = empty_like(x);   // the memory of `middle`, free again by then
        add_one(y, last);
      });
      empty({100}, DType::f32, device);   // what others do between replays must not touch the graph's memory
      Tensor foreign = empty({100}, DType::f32, device);
      cuda::backend().copy(device, foreign.raw(), {}, full({100}, -1).raw(), 400);
      seen.push_back(bytes_of(y).to_vector()[99]);
      CHECK(graph.is_recorded() == (device.is_cuda() && i > 0));
    }
    y = {};
  }
  CHECK(seen == std::vector<double>{3, 13, 23, 33});
  CHECK(calls == (device.is_cuda() ? 2 : 4));
}

TEST_CASE("replays draw what comes next in the stream of their generator", "[cuda_host]") {
  if (EmulatedGpu::kernels().random_normal == nullptr) return;
  EmulatedGpu gpu;
  for (uint64_t begin : {uint64_t(0), uint64_t(7)}) {
    Generator expected{3, begin}, generator = expected;
    Tensor y;
    {
      Graph graph(gpu.device());
      for (int call = 0; call < 5; ++call) {
        if (call == 3) normal({9}, DType::f32, expected), normal({9}, DType::f32, generator, gpu.device());   // between
        graph.run([&] { y = normal({10}, DType::f32, generator, gpu.device()); }, generator);
        INFO("call " << call);
        CHECK(bytes_of(y).to_vector() == normal({10}, DType::f32, expected).to_vector());
        CHECK(generator == expected);
      }
      generator.seed = 4;
      CHECK_THAT(refusal([&] { graph.run([] {}, generator); }, Error::Kind::argument), Contains("draws of seed 3"));
      y = {};
    }
  }
}

TEST_CASE("copies to and from the host cannot be recorded", "[cuda_host]") {
  EmulatedGpu gpu;
  Tensor x = zeros({4}).to(gpu.device());
  Graph graph(gpu.device());
  auto read = [&] { bytes_of(x); };
  graph.run(read);
  CHECK_THAT(refusal([&] { graph.run(read); }, Error::Kind::argument), Contains("copy: from cuda:0 to cpu inside"));
  CHECK_THAT(refusal([&] { graph.run(read); }, Error::Kind::argument), Contains("inside a recorded graph"));
}
