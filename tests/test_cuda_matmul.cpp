// The GPU's product kernels on the emulated GPU against the CPU.
#include "tensor/tf32.h"
#include "tests/cuda_host/gpu.h"
#include "tests/cuda_parity.h"
#include "tests/skips.h"

using namespace mote;
using namespace mote::test;

namespace {

/// Sums of up to a few hundred products of normal numbers in another order; bf16 results may round to the neighbour.
double absolute_of(DType dtype) { return dtype == DType::f64 ? 1e-13 : dtype == DType::f32 ? 2e-5 : 1e-4; }
double relative_of(DType dtype) { return dtype == DType::bf16 ? 1.0 / 128 : 0; }

struct Product {
  int64_t batches, M, N, K;   // 0 batches: matrices
};

std::string matmul_disagreement(const Product& p, DType dtype, bool trans_a, bool trans_w, bool with_bias,
                                int64_t offset, double absolute, double relative) {
  auto shape = [&](int64_t rows, int64_t columns, bool transposed) {
    Shape matrix = transposed ? Shape{columns, rows} : Shape{rows, columns};
    return p.batches ? matrix.inserted(0, p.batches) : matrix;
  };
  Tensor a = draw_at(offset, shape(p.M, p.K, trans_a), dtype, 1);
  Tensor w = draw_at(offset, shape(p.K, p.N, trans_w), dtype, 2);
  Tensor bias = with_bias ? draw_at(offset, {p.N}, dtype, 3) : Tensor();
  return disagreement({stale(shape(p.M, p.N, false), dtype)}, offset, [&](auto on, auto& out) {
    on.matmul(out[0], a, w, trans_a, trans_w, bias);
  }, absolute, relative);
}

/// Lets f32 products round to TF32 while it lives.
struct AllowTf32 {
  AllowTf32() { allow_tf32(true); }
  ~AllowTf32() { allow_tf32(false); }
};

}  // namespace

TEST_CASE("products on the GPU agree with the CPU, transposed or not, on sizes that no tile divides", "[cuda-host]") {
  const std::vector<Product> products = {
      {0, 5, 7, 3}, {0, 1, 1, 1}, {0, 65, 9, 37}, {0, 3, 66, 5}, {3, 6, 5, 33}, {0, 64, 64, 32}, {0, 16, 72, 104},
      {0, 2, 3, 0},   // a sum of nothing is 0
  };
  for (DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (const Product& p : products)
      for (bool trans_a : {false, true})
        for (bool trans_w : {false, true}) {
          INFO(dtype << ": " << p.batches << " x " << p.M << " x " << p.N << " x " << p.K << (trans_a ? " a^T" : "")
                     << (trans_w ? " w^T" : ""));
          bool with_bias = trans_a == trans_w;
          CHECK(matmul_disagreement(p, dtype, trans_a, trans_w, with_bias, 0, absolute_of(dtype),
                                    relative_of(dtype)) == "");
        }
}

TEST_CASE("products on the GPU read and write memory that begins anywhere", "[cuda-host]") {
  for (DType dtype : {DType::f32, DType::bf16, DType::f64})
    CHECK(matmul_disagreement({0, 24, 40, 48}, dtype, false, true, true, 1, absolute_of(dtype),
                              relative_of(dtype)) == "");
}

TEST_CASE("f32 products on the GPU round to TF32 only where that is allowed", "[cuda-host]") {
  // The CPU does not round, so a difference shows that tensor cores were used; 2^-11 a factor is what they may lose.
  Product p{0, 24, 40, 48};
  CHECK(matmul_disagreement(p, DType::f32, false, false, true, 0, 2e-5, 0) == "");
  AllowTf32 allowed;
  for (bool transposed : {false, true}) {
    CHECK(matmul_disagreement(p, DType::f32, transposed, transposed, true, 0, 2e-5, 0) != "");
    CHECK(matmul_disagreement(p, DType::f32, transposed, transposed, true, 0, 2e-2, 0) == "");
  }
}

TEST_CASE("a product on the GPU of no elements does nothing", "[cuda-host]") {
  CHECK(matmul_disagreement({0, 0, 3, 2}, DType::f32, false, false, false, 0, 0, 0) == "");
  CHECK(matmul_disagreement({0, 3, 0, 2}, DType::bf16, false, true, true, 0, 0, 0) == "");
}

TEST_CASE("NaN and infinity pass through products on the GPU as on the CPU", "[cuda-host]") {
  for (DType dtype : {DType::f32, DType::bf16}) {
    Tensor a = from({1, NAN, 2, 3, INFINITY, 1, 0, 1, 1}, {3, 3}).to(dtype);
    Tensor w = from({1, 2, 3, 4, 5, 6}, {3, 2}).to(dtype);
    CHECK(disagreement({stale({3, 2}, dtype)}, 0, [&](auto on, auto& out) {
      on.matmul(out[0], a, w, false, false, Tensor());
    }) == "");
  }
}

TEST_CASE("large products on a GPU, by cuBLASLt, agree with the CPU", "[cuda]") {
  RealGpu gpu;
  if (!gpu.is_there()) return skip(gpu.why_not);
  for (DType dtype : {DType::f32, DType::bf16})
    for (int64_t batches : {0, 3})
      for (bool trans_a : {false, true})
        for (bool trans_w : {false, true}) {
          INFO(dtype << ", " << batches << " batches" << (trans_a ? " a^T" : "") << (trans_w ? " w^T" : ""));
          auto shape = [&](int64_t rows, int64_t columns, bool transposed) {
            Shape matrix = transposed ? Shape{columns, rows} : Shape{rows, columns};
            return batches ? matrix.inserted(0, batches) : matrix;
          };
          Tensor a = draw_at(0, shape(192, 80, trans_a), dtype, 1), w = draw_at(0, shape(80, 128, trans_w), dtype, 2);
          Tensor bias = trans_a ? Tensor() : draw_at(0, {128}, dtype, 3);
          Tensor expected = stale(shape(192, 128, false), dtype), got = expected.to(gpu.device);
          kernel::matmul(expected, a, w, trans_a, trans_w, bias);
          kernel::matmul(got, a.to(gpu.device), w.to(gpu.device), trans_a, trans_w,
                         bias.defined() ? bias.to(gpu.device) : bias);
          CHECK_CLOSE(got.to(Device{}), expected, absolute_of(dtype), relative_of(dtype));
        }
}
