// States as torch holds them in 8 bits: a tensor of codes, int8 or where the state is never
// negative uint8, of the parameter's shape, and one of exponents, int8, with a row for each index
// of the first dimension and a number for each block of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "../storage/blocks.h"
#include "subject.h"

namespace onepass {

// Whether a state is stored in codes: no float state has these dtypes.
inline bool has_code_dtype(const at::TensorBase& state) {
  return state.scalar_type() == at::kChar || state.scalar_type() == at::kByte;
}

// Where the blocks of a parameter lie, in the order of the indices.
BlockRows block_rows_of(const at::TensorBase& param);

// Raises unless a state and its exponents are such codes. `state` names the state.
void check_codes(const at::TensorBase& codes, const at::TensorBase& exponents, bool is_non_negative,
                 const at::TensorBase& param, const Subject& state);

// A state's codes and exponents, rounded to nearest, and back to float32. Both take any layout.
std::pair<at::Tensor, at::Tensor> encode_state(const at::Tensor& state, bool is_non_negative);
at::Tensor decode_state(const at::Tensor& codes, const at::Tensor& exponents);

}  // namespace onepass
