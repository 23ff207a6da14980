#include "validate.h"

#include <ATen/ops/zeros.h>

#include <string_view>

#include "../launch/device.h"
#include "../tensor/codes.h"

namespace onepass {

void Validation::check_numbers(Entry& entry) const {
  const Tensors& tensors = entry.tensors;
  if (tensors.step != nullptr) {
    if (!cuda::number_on_device(*tensors.step)) entry.count = usual_count(*tensors.step);
    if (entry.count == nullptr || entry.on_device) check_step_count(entry);
  }
  if (tensors.decay_log.sum != nullptr) {
    TORCH_CHECK(!entry.on_device, subject_.text(), " has rows that missed decay, which catches up ",
                "on the CPU only; call catch_up() there before the model moves");
    check_decay_log(tensors.decay_log, *tensors.param, subject_);
  }
  const std::span<const State> numbers = group_.algorithm->numbers;
  for (std::size_t k = 0; k < numbers.size(); ++k) {
    check_number(*tensors.numbers[k], *tensors.param, subject_.about(numbers[k].name));
    entry.numbers[k] = memory_of_number(*tensors.numbers[k]);
  }
}

void Validation::check_offered_on_devices(const Tensors& tensors, bool needs_grad_norm) const {
  const c10::Device device = tensors.param->device();
  TORCH_CHECK(!needs_grad_norm, subject_.parameter(), " is on ", device, ", and max_grad_norm and ",
              "skip_nonfinite are taken on the CPU only so far; leave them out and call ",
              "torch.nn.utils.clip_grad_norm_ before step()");
  TORCH_CHECK(
      !tensors.has_codes, subject_.parameter(), " is on ", device,
      ", and states of 8 bits are stepped on the CPU only so far; leave state_dtype out or ",
      "make it bfloat16");
  TORCH_CHECK(!group_.rounds_randomly(), subject_.parameter(), " is on ", device, ", and ",
              "stochastic rounding is done on the CPU only so far; leave stochastic_rounding and ",
              "state_rounding out");
}

void Validation::check_step_count(const Entry& entry) const {
  const at::TensorBase& step = *entry.tensors.step;
  const at::TensorBase& param = *entry.tensors.param;
  const bool host_counts = !cuda::number_on_device(step);
  const bool usual = host_counts ? entry.count != nullptr
                                 : is_usual_count(step) && step.device() == param.device();
  if (!usual) check_step(step, param, subject_.about("step"));
  TORCH_CHECK(!entry.on_device || !host_counts || !scaler_.found_inf.defined(),
              subject_.about("step").text(), " is on the CPU, which cannot know whether this step ",
              "is skipped; move it to ", param.device(), " with the parameter");
}

// Memory for the shares that are computed once the step is certain.
void Validation::allot_keep(Entry& entry) const {
  const std::size_t rows = entry.rows != nullptr
                               ? entry.rows->index.size()
                               : static_cast<std::size_t>(entry.tensors.decay_log.at_row->numel());
  entry.keep = memory_.keep.emplace_back(rows).data();
}

bool Validation::take_fast_path(const Tensors& tensors, ByteRanges& ranges) const {
  // A log of decay cuts the parameter into rows, in the order of the indices.
  if (tensors.decay_log.sum != nullptr || tensors.grad == nullptr) return false;
  const FastPathCheck check(*tensors.param);
  const Access grad_access = scaler_.scales() ? Access::kWrite : Access::kRead;
  if (!check.locate_param(ranges[0]) || !check.locate(*tensors.grad, grad_access, ranges[1]))
    return false;
  if (tensors.has_codes) return locate_codes(check, tensors, ranges);
  for (int k = 0; k < group_.state_count; ++k)
    if (!check.locate(*tensors.states[k], Access::kWrite, ranges[2 + k])) return false;
  return true;
}

// Where some states are codes.
bool Validation::locate_codes(const FastPathCheck& check, const Tensors& tensors,
                              ByteRanges& ranges) const {
  if (tensors.param->is_complex() || !group_.algorithm->counts_steps) return false;
  const std::int64_t blocks = block_rows_of(*tensors.param).blocks_of_row();
  for (int k = 0; k < group_.state_count; ++k) {
    const at::TensorBase& state = *tensors.states[k];
    ByteRange& exponents = ranges[kExponents + k] = {};
    const bool is_located =
        tensors.exponents[k] == nullptr
            ? check.locate(state, Access::kWrite, ranges[2 + k])
            : check.locate_codes(state, *tensors.exponents[k], group_.is_non_negative[k], blocks,
                                 ranges[2 + k], exponents);
    if (!is_located) return false;
  }
  return true;
}

ByteRanges Validation::check_operands(Entry& entry) const {
  const Tensors& tensors = entry.tensors;
  ByteRanges ranges = {};
  check_kind(*tensors.param, subject_);
  check_writable(*tensors.param, subject_);
  ranges[0] = byte_range_of(*tensors.param, Access::kWrite, subject_);
  if (tensors.grad != nullptr)
    ranges[1] = check_gradient(entry, subject_.about(group_.algorithm->roles.one_read));
  check_states(tensors, ranges);
  if (tensors.decay_log.sum != nullptr && tensors.grad != nullptr) allot_keep(entry);
  return ranges;
}

void Validation::check_states(const Tensors& tensors, ByteRanges& ranges) const {
  for (int k = 0; k < group_.state_count; ++k) {
    const at::TensorBase& tensor = *tensors.states[k];
    const Subject state = subject_.about(group_.state_names[k]);
    const at::TensorBase* const exponents = tensors.exponents_of(k);
    if (exponents != nullptr) {
      TORCH_CHECK(group_.algorithm->counts_steps, state.text(), " is codes of 8 bits, which ",
                  group_.algorithm->name, " cannot round: it keeps no count of its steps; take a ",
                  "class that does, as onepass.Momentum");
      check_codes(tensor, *exponents, group_.is_non_negative[k], *tensors.param, state);
      ranges[kExponents + k] = byte_range_of(*exponents, Access::kWrite, state);
    } else {
      TORCH_CHECK(!has_code_dtype(tensor), state.text(),
                  " is codes of 8 bits, but their exponents, '", group_.state_names[k],
                  "_exponent', are missing; load a whole state dict");
      check_kind(tensor, state);
    }
    check_matches(tensor, *tensors.param, state);
    check_writable(tensor, state);
    ranges[2 + k] = byte_range_of(tensor, Access::kWrite, state);
  }
}

// Almost always the ranges say so already.
void Validation::check_separate(const Tensors& tensors, const ByteRanges& ranges) const {
  const auto tensor = [&](int k) -> const at::TensorBase& {
    if (k >= kExponents) return *tensors.exponents[k - kExponents];  // whose range is not empty
    return k == 0 ? *tensors.param : k == 1 ? *tensors.grad : *tensors.states[k - 2];
  };
  const int count = tensors.has_codes ? std::ssize(ranges) : 2 + group_.state_count;
  for (int a = 0; a < count; ++a)
    for (int b = a + 1; b < count; ++b)
      TORCH_CHECK(!ranges[a].overlaps(ranges[b]) ||
                      !share_elements(tensor(a), ranges[a], tensor(b), ranges[b]),
                  subject_.text(),
                  " shares memory with its gradient or its states, or these with one another; ",
                  "give each its own memory, for example by .clone()");
}

ByteRange Validation::check_gradient(Entry& entry, const Subject& subject) const {
  const bool scaled = scaler_.scales();
  const Access access = scaled ? Access::kWrite : Access::kRead;
  const at::TensorBase*& grad = entry.tensors.grad;
  if (grad->layout() != at::kStrided) take_sparse_gradient(entry, subject);
  if (is_lazy(*grad) && !scaled) {
    const at::Tensor lazy(*grad);
    grad = &memory_.resolved.emplace_back(lazy._is_zerotensor()
                                              ? at::zeros(lazy.sizes(), lazy.options())
                                              : lazy.resolve_conj().resolve_neg());
  }
  check_kind(*grad, subject);
  if (entry.rows == nullptr) check_matches(*grad, *entry.tensors.param, subject);
  if (scaled) check_writable(*grad, subject);
  return byte_range_of(*grad, access, subject);
}

// Replaces a sparse gradient by the rows it has values for.
void Validation::take_sparse_gradient(Entry& entry, const Subject& subject) const {
  const Algorithm& algorithm = *group_.algorithm;
  TORCH_CHECK(algorithm.no_sparse == nullptr, algorithm.no_sparse);
  for (std::size_t k = 0; algorithm.no_sparse_decay != nullptr && k < algorithm.hypers.size(); ++k)
    TORCH_CHECK(
        algorithm.hypers[k].key != std::string_view("weight_decay") || group_.hypers[k] == 0.0,
        algorithm.no_sparse_decay);
  TORCH_CHECK(!entry.on_device, subject.text(), " is sparse, which only steps on the CPU take so ",
              "far; call .to_dense()");
  TORCH_CHECK(!scaler_.scales(), subject.text(), " is sparse, which a step under GradScaler with ",
              "fused=True does not take; leave fused=True out");
  TORCH_CHECK(group_.variant().sums == nullptr, subject.text(),
              " is sparse, but cautious steps take ", "dense gradients; call .to_dense()");
  const at::Tensor grad(*entry.tensors.grad);
  TORCH_CHECK(!entry.tensors.has_codes || grad.sparse_dim() == 1, subject.text(), " has ",
              grad.sparse_dim(), " sparse dimensions, and states of 8 bits ",
              "take gradients with one; leave state_dtype out for this parameter");
  entry.rows = &memory_.rows.emplace_back(rows_of(grad, *entry.tensors.param, subject));
  entry.tensors.grad = &entry.rows->values;
  if (algorithm.kept_without_gradient != nullptr) want_decay_log(entry, grad.sparse_dim(), subject);
}

// From the first sparse gradient with decoupled decay on, the parameter's state has a log of it.
void Validation::want_decay_log(const Entry& entry, std::int64_t sparse_dim,
                                const Subject& subject) const {
  const DecayLog& log = entry.tensors.decay_log;
  const double kept = group_.algorithm->kept_without_gradient(group_.hypers);
  TORCH_CHECK_VALUE(kept > 0.0, subject.text(), " is sparse, and a step with this lr and ",
                    "weight_decay keeps ", kept, " of the parameter: rows without values could ",
                    "not catch up; it must be more than 0");
  if (log.sum == nullptr) {
    if (kept != 1.0)
      memory_.new_decay_logs.emplace_back(*entry.tensors.param, sparse_dim, entry.group,
                                          entry.index);
    return;
  }
  TORCH_CHECK(log.at_row->dim() == sparse_dim, subject.text(), " has ", sparse_dim,
              " sparse dimensions, but the first of its kind had ", log.at_row->dim(),
              "; keep to these");
}

}  // namespace onepass
