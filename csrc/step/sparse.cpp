#include "sparse.h"

#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "../tensor/step_count.h"

namespace onepass {
namespace {

// The rows' numbers in the order of memory, each checked against its dimension.
std::vector<std::int64_t> flat_index(const at::Tensor& indices, const at::TensorBase& param,
                                     const Subject& subject) {
  const at::Tensor rows = indices.contiguous();
  const std::int64_t count = rows.size(1);
  const auto* const index = rows.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> flat(count);
  for (std::int64_t dim = 0; dim < rows.size(0); ++dim) {
    const std::int64_t size = param.size(dim);
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t at = index[dim * count + k];
      TORCH_CHECK(0 <= at && at < size, subject.text(), " has the sparse index ", at,
                  " in dimension ", dim, ", where the parameter has size ", size);
      flat[k] = flat[k] * size + at;
    }
  }
  return flat;
}

constexpr std::size_t kAhead = 16;  // rows lie anywhere: ask for them early

bool is_rising(const std::vector<std::int64_t>& index) {
  return std::ranges::adjacent_find(index, std::greater_equal{}) == index.end();
}

}  // namespace

Rows rows_of(const at::Tensor& grad, const at::TensorBase& param, const Subject& subject) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  TORCH_CHECK(grad.layout() == at::kSparse, subject.text(), " has layout ", grad.layout(),
              "; onepass takes dense gradients and torch.sparse_coo");
  check_matches(grad, param, subject);
  check_kind(grad._values(), subject);
  const std::int64_t sparse_dim = grad.sparse_dim();
  TORCH_CHECK(grad._indices().scalar_type() == at::kLong && grad._indices().device().is_cpu() &&
                  grad._values().dim() == 1 + param.dim() - sparse_dim &&
                  grad._values().size(0) == grad._indices().size(1) &&
                  grad._values().sizes().slice(1) == param.sizes().slice(sparse_dim),
              subject.text(), " is no valid sparse tensor; make it with check_invariants=True");
  Rows rows{grad._values(), flat_index(grad._indices(), param, subject)};
  if (!is_rising(rows.index)) {
    const at::Tensor unique =
        at::_sparse_coo_tensor_unsafe(grad._indices(), grad._values(), grad.sizes()).coalesce();
    rows.values = unique._values();
    rows.index = flat_index(unique._indices(), param, subject);
  }
  rows.values = rows.values.contiguous();
  for (const std::int64_t size : param.sizes().slice(sparse_dim)) rows.size *= size;
  return rows;
}

NewDecayLog::NewDecayLog(const at::TensorBase& param, std::int64_t sparse_dim, int group, int index)
    : group(group), index(index) {
  const c10::InferenceMode outside(false);
  const auto options = at::TensorOptions().dtype(at::kDouble).device(param.device());
  sum = at::zeros({}, options);
  at_row = at::zeros(param.sizes().slice(0, sparse_dim), options);
}

void check_decay_log(const DecayLog& log, const at::TensorBase& param, const Subject& subject) {
  check_number(*log.sum, param, subject.about("decay_log"));
  const at::TensorBase& at_row = *log.at_row;
  const Subject row = subject.about("row_decay_log");
  check_kind(at_row, row);
  check_writable(at_row, row);
  TORCH_CHECK(at_row.scalar_type() == at::kDouble && at_row.is_contiguous() &&
                  at_row.dim() <= param.dim() &&
                  at_row.sizes() == param.sizes().slice(0, at_row.dim()),
              row.text(), " must be a contiguous float64 tensor with one number for each row");
  byte_range_of(at_row, Access::kWrite, row);
}

void catch_up(const at::TensorBase& param, const DecayLog& log) {
  if (param.is_meta()) return;
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const at::Tensor at_row(*log.at_row), all(param);
  const at::Tensor sum =
      at::scalar_tensor(memory_of_number(*log.sum).read().value, at_row.options());
  std::vector<std::int64_t> sizes(param.dim(), 1);
  std::ranges::copy(at_row.sizes(), sizes.begin());
  all.mul_(at::sub(sum, at_row).exp().view(sizes));
  at_row.fill_(sum);
}

void note_caught_up(const DecayLog& log, double* keep) {
  const double sum = memory_of_number(*log.sum).read().value;
  auto* const at_row = log.at_row->mutable_data_ptr<double>();
  for (std::int64_t row = 0; row < log.at_row->numel(); ++row) {
    keep[row] = std::exp(sum - at_row[row]);
    at_row[row] = sum;
  }
}

void note_caught_up(const Rows& rows, const DecayLog& log, double kept, double* keep) {
  const StateNumberMemory sum = memory_of_number(*log.sum);
  const double before = sum.read().value, after = before + std::log(kept);
  auto* const at_row = log.at_row->mutable_data_ptr<double>();
  const std::size_t count = rows.index.size();
  for (std::size_t k = 0; k < count; ++k) {
    if (k + kAhead < count) __builtin_prefetch(&at_row[rows.index[k + kAhead]], 1);
    const std::int64_t row = rows.index[k];
    keep[k] = std::exp(before - at_row[row]);
    at_row[row] = after;
  }
  sum.write(after);
}

}  // namespace onepass
