// Sparse gradients: the rows of a parameter that they touch, and the decay that other rows miss.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "../tensor/checks.h"

namespace onepass {

// The rows of a parameter that a sparse gradient has values for. A row is what one index over the
// sparse dimensions selects.
struct Rows {
  at::Tensor values;                // one contiguous row of the gradient for each of
  std::vector<std::int64_t> index;  // these rows of the parameter, rising
  std::int64_t size = 1;            // elements of a row
};

// Raises, before anything is read from it, where the gradient does not fit the parameter.
Rows rows_of(const at::Tensor& grad, const at::TensorBase& param, const Subject& subject);

// Decoupled decay reaches rows without a gradient late. `sum` is the sum of the logarithms of what
// each step keeps, `at_row` what the sum was when a row was last up to date.
struct DecayLog {
  const at::TensorBase* sum = nullptr;
  const at::TensorBase* at_row = nullptr;
};

// The logs of a parameter that has missed nothing yet, which is at `index` of a group.
struct NewDecayLog {
  NewDecayLog(const at::TensorBase& param, std::int64_t sparse_dim, int group, int index);

  at::Tensor sum, at_row;
  int group, index;
};

void check_decay_log(const DecayLog& log, const at::TensorBase& param, const Subject& subject);

// Brings every row of a parameter up to date.
void catch_up(const at::TensorBase& param, const DecayLog& log);

// Notes in checked logs that all rows are up to date, once `keep` of each remains. Allocates
// nothing.
void note_caught_up(const DecayLog& log, double* keep);

// The same for these rows alone, and counts a step that keeps `kept` of a parameter.
void note_caught_up(const Rows& rows, const DecayLog& log, double kept, double* keep);

}  // namespace onepass
