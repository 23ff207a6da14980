#include "codes.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <array>

#include "../sweep/codes.h"
#include "checks.h"

namespace onepass {
namespace {

// A row of a one-dimensional parameter is one number: a block for each would take 2 bytes a number,
// and blocks across rows would depend on how processes share the parameter. So it keeps floats.
constexpr std::int64_t kFewestDims = 2;

std::array<std::int64_t, 2> exponent_shape(const at::TensorBase& param) {
  return {param.size(0), block_rows_of(param).blocks_of_row()};
}

// A tensor whose elements the loops may read, on the CPU and one after the other.
at::Tensor on_cpu(const at::Tensor& tensor, at::ScalarType type, const char* role) {
  TORCH_CHECK(is_plain(tensor), role, " is a tensor of a kind that has no memory of its own (",
              tensor.key_set(), "); states of 8 bits are made of plain tensors");
  TORCH_CHECK(has_memory(tensor), "the memory of ", role, " was freed or resized");
  return tensor.detach().to(at::kCPU, type).contiguous();
}

BlockRun<float> run_over(const at::Tensor& numbers, const at::Tensor& codes,
                         const at::Tensor& exponents) {
  return {codes.mutable_data_ptr(),
          exponents.mutable_data_ptr<std::int8_t>(),
          block_rows_of(numbers),
          numbers.mutable_data_ptr<float>(),
          0,
          numbers.numel()};
}

}  // namespace

BlockRows block_rows_of(const at::TensorBase& param) {
  std::int64_t row_size = 1;
  for (std::int64_t dim = 1; dim < param.dim(); ++dim) row_size *= param.size(dim);
  return {row_size};
}

void check_codes(const at::TensorBase& codes, const at::TensorBase& exponents, bool is_non_negative,
                 const at::TensorBase& param, const Subject& state) {
  const at::ScalarType wanted = is_non_negative ? at::kByte : at::kChar;
  check_device(codes, state);
  TORCH_CHECK(codes.scalar_type() == wanted, state.text(), " has dtype ", codes.scalar_type(),
              ", but its codes are of dtype ", wanted, "; load a state dict of this class");
  TORCH_CHECK(is_plain(codes) && codes.is_contiguous(), state.text(), " is codes with strides ",
              codes.strides(), " (", codes.key_set(),
              "); they must be a plain tensor in order: ", "call .contiguous()");
  TORCH_CHECK(param.dim() >= kFewestDims, state.text(),
              " has codes of 8 bits, which only parameters ",
              "of two dimensions and more take; load a state dict of this model");
  const std::array<std::int64_t, 2> shape = exponent_shape(param);
  const bool is_alike = exponents.scalar_type() == at::kChar &&
                        exponents.sizes() == c10::IntArrayRef(shape) &&
                        exponents.device() == param.device();
  TORCH_CHECK(is_alike, "the exponents of ", state.text(), " have dtype ", exponents.scalar_type(),
              " and shape ", exponents.sizes(), " on ", exponents.device(),
              "; they must have dtype ", at::kChar, " and shape ", c10::IntArrayRef(shape), " on ",
              param.device());
  TORCH_CHECK(is_plain(exponents) && exponents.is_contiguous(), "the exponents of ", state.text(),
              " have strides ", exponents.strides(), " (", exponents.key_set(),
              "); they must be a ", "plain tensor in order: call .contiguous()");
  TORCH_CHECK(has_memory(exponents), "the memory of the exponents of ", state.text(), " was freed ",
              "or resized: restore it before the step");
  check_writable(exponents, state);
}

std::pair<at::Tensor, at::Tensor> encode_state(const at::Tensor& state, bool is_non_negative) {
  TORCH_CHECK(state.dim() >= kFewestDims && state.is_floating_point(),
              "only real states of two dimensions and more can be stored in 8 bits");
  const at::ScalarType type = is_non_negative ? at::kByte : at::kChar;
  const auto options = state.options().requires_grad(false);
  if (state.numel() == 0 || state.is_meta())
    return {at::empty(state.sizes(), options.dtype(type)),
            at::empty(exponent_shape(state), options.dtype(at::kChar))};
  const at::Tensor numbers = on_cpu(state, at::kFloat, "the state");
  const at::Tensor codes = at::empty(numbers.sizes(), numbers.options().dtype(type));
  const at::Tensor exponents = at::empty(exponent_shape(numbers), codes.options().dtype(at::kChar));
  encode_numbers(run_over(numbers, codes, exponents), stored_type(codes));
  return {codes.to(state.device()), exponents.to(state.device())};
}

at::Tensor decode_state(const at::Tensor& codes, const at::Tensor& exponents) {
  TORCH_CHECK(has_code_dtype(codes) && codes.dim() >= kFewestDims &&
                  exponents.scalar_type() == at::kChar &&
                  exponents.sizes() == c10::IntArrayRef(exponent_shape(codes)),
              "codes of dtype ", codes.scalar_type(), " and shape ", codes.sizes(),
              " and exponents of dtype ", exponents.scalar_type(), " and shape ", exponents.sizes(),
              " do not belong together");
  if (codes.numel() == 0 || codes.is_meta())
    return at::empty(codes.sizes(), codes.options().dtype(at::kFloat));
  const at::Tensor from = on_cpu(codes, codes.scalar_type(), "the state");
  const at::Tensor by = on_cpu(exponents, at::kChar, "the exponents");
  const at::Tensor numbers = at::empty(from.sizes(), from.options().dtype(at::kFloat));
  decode_codes(run_over(numbers, from, by), stored_type(from));
  return numbers.to(codes.device());
}

}  // namespace onepass
