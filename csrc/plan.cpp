#include "plan.h"

#include <ATen/Functions.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <bit>
#include <numeric>

namespace onepass {
namespace {

constexpr int kMaxOperands = kMaxStates + 2;  // parameter, gradient, states

int state_count(const Group& group) { return std::popcount(group.present); }

// The name of the k-th state that is present.
const char* state_name(const Group& group, int k) {
  for (std::size_t bit = 0; bit < group.algorithm->states.size(); ++bit)
    if ((group.present >> bit & 1) != 0 && k-- == 0) return group.algorithm->states[bit].name;
  return "state";
}

// The widest type decides: float64 wherever one operand holds it, float32 otherwise.
Float arithmetic_of(const Task& task) {
  bool wide = task.param.type == Float::kFloat64 || task.grad.type == Float::kFloat64;
  for (int k = 0; k < task.state_count; ++k) wide |= task.states[k].type == Float::kFloat64;
  return wide ? Float::kFloat64 : Float::kFloat32;
}

// The loop over the very types of a task, or null where it has to go through tiles.
Loop in_place_loop(const Task& task, const Variant& variant) {
  if (task.sizes != nullptr || task.grad_scale != 0.0) return nullptr;
  for (int mix = 0; mix < kMixCount; ++mix) {
    bool same = task.param.type == kMixes[mix].param && task.grad.type == kMixes[mix].grad;
    for (int k = 0; k < task.state_count; ++k) same &= task.states[k].type == kMixes[mix].states;
    if (same) return variant.loop(mix);
  }
  return nullptr;
}

bool same_strides(const at::TensorBase& a, const at::TensorBase& b) {
  for (std::int64_t dim = 0; dim < a.dim(); ++dim)
    if (a.size(dim) > 1 && a.stride(dim) != b.stride(dim)) return false;
  return true;
}

// Calls visit(tensor, operand) for the parameter, its gradient and its states.
template <class Visit>
void for_each_operand(const Tensors& tensors, Task& task, const Visit& visit) {
  visit(*tensors.param, task.param);
  visit(*tensors.grad, task.grad);
  for (int k = 0; k < task.state_count; ++k) visit(*tensors.states[k], task.states[k]);
}

// Raises if two of a parameter's tensors share memory: the loops take them for independent.
void check_separate(std::span<const Span> spans, const Subject& subject) {
  for (std::size_t a = 0; a < spans.size(); ++a)
    for (std::size_t b = a + 1; b < spans.size(); ++b)
      TORCH_CHECK(!spans[a].overlaps(spans[b]), subject.text(),
                  " shares memory with its gradient or its states, or these with one another; ",
                  "give each its own memory, for example by .clone()");
}

// Whether memory order is the same for all operands and has no gaps, so that strides do not matter.
bool is_linear(const Tensors& tensors, Task& task) {
  const at::TensorBase& param = *tensors.param;
  bool contiguous = true, like_param = param.is_non_overlapping_and_dense();
  for_each_operand(tensors, task, [&](const at::TensorBase& tensor, Operand&) {
    contiguous &= tensor.is_contiguous();
  });
  if (contiguous || !like_param) return contiguous;
  for_each_operand(tensors, task, [&](const at::TensorBase& tensor, Operand&) {
    like_param &= same_strides(param, tensor);
  });
  return like_param;
}

}  // namespace

void Plan::begin(double grad_scale) {
  clear();
  grad_scale_ = grad_scale;
}

void Plan::clear() {
  groups_.clear();
  entries_.clear();
  tasks_.clear();
  ends_.clear();
  gradients_.clear();
  written_.clear();
  coefficients_.clear();
  keys_.clear();
  layouts_.clear();
  resolved_.clear();
  held_.clear();
}

void Plan::add_group(const Group& group) { groups_.push_back(group); }

void Plan::add(const Tensors& given, const Subject& subject) {
  const Group& group = groups_.back();
  const int states = state_count(group);
  Tensors tensors = given;
  Span spans[kMaxOperands] = {};

  check_kind(*tensors.param, subject);
  check_writable(*tensors.param, subject);
  spans[0] = span_of(*tensors.param, Access::kWrite, subject);
  if (tensors.grad != nullptr) spans[1] = check_gradient(tensors, subject.about("the gradient"));
  for (int k = 0; k < states; ++k) {
    const Subject state = subject.about(state_name(group, k));
    check_kind(*tensors.states[k], state);
    check_matches(*tensors.states[k], *tensors.param, state);
    check_writable(*tensors.states[k], state);
    spans[2 + k] = span_of(*tensors.states[k], Access::kWrite, state);
  }
  check_separate({spans, spans + 2 + states}, subject);
  check_step(*tensors.step, subject.about("step"));

  if (tensors.grad == nullptr) return;
  entries_.push_back({tensors, static_cast<int>(groups_.size()) - 1});
  add_task(tensors, spans);
}

Span Plan::check_gradient(Tensors& tensors, const Subject& subject) {
  const bool scaled = grad_scale_ != 0.0;
  TORCH_CHECK(tensors.grad->layout() == at::kStrided, groups_.back().algorithm->no_sparse);
  if (is_lazy(*tensors.grad) && !scaled) {
    const at::Tensor lazy(*tensors.grad);
    tensors.grad = &resolved_.emplace_back(lazy._is_zerotensor()
                                               ? at::zeros(lazy.sizes(), lazy.options())
                                               : lazy.resolve_conj().resolve_neg());
  }
  check_kind(*tensors.grad, subject);
  check_matches(*tensors.grad, *tensors.param, subject);
  if (scaled) check_writable(*tensors.grad, subject);
  return span_of(*tensors.grad, scaled ? Access::kWrite : Access::kRead, subject);
}

void Plan::add_task(const Tensors& tensors, const Span* spans) {
  const Group& group = groups_.back();
  Task& task = tasks_.emplace_back();
  task.state_count = state_count(group);
  task.maximize = group.maximize;
  task.grad_scale = grad_scale_;
  const int pair = tensors.param->is_complex() ? 2 : 1;
  task.size = tensors.param->is_meta() ? 0 : tensors.param->numel() * pair;
  const Span* span = spans;
  for_each_operand(tensors, task, [&](const at::TensorBase& tensor, Operand& operand) {
    operand.type = stored_type(tensor);
    operand.data = const_cast<std::byte*>(span++->begin);
  });
  if (task.size > 0 && !is_linear(tensors, task)) plan_strides(task, tensors);

  const Variant& variant = group.algorithm->variants[group.present];
  task.arithmetic = arithmetic_of(task);
  task.in_place = in_place_loop(task, variant);
  task.tiled = variant.loop(task.arithmetic == Float::kFloat64 ? kMixFloat64 : kMixFloat32);

  ends_.push_back(elements() + task.size);
  gradients_.push_back(spans[1]);
  written_.push_back(spans[0]);
  written_.insert(written_.end(), spans + 2, spans + 2 + task.state_count);
  if (grad_scale_ != 0.0) written_.push_back(spans[1]);
}

// The order of the sweep is the parameter's order in memory: its dimensions by falling stride.
// Operands that lie in that order without gaps need no strides. Complex numbers are pairs: one more
// dimension.
void Plan::plan_strides(Task& task, const Tensors& tensors) {
  const at::TensorBase& param = *tensors.param;
  const std::int64_t pair = param.is_complex() ? 2 : 1;
  std::vector<std::int64_t> dims;
  for (std::int64_t dim = 0; dim < param.dim(); ++dim)
    if (param.size(dim) != 1) dims.push_back(dim);
  std::ranges::stable_sort(dims, std::greater{},
                           [&](std::int64_t dim) { return param.stride(dim); });

  std::vector<std::int64_t>& sizes = layouts_.emplace_back();
  for (const std::int64_t dim : dims) sizes.push_back(param.size(dim));
  if (pair == 2) sizes.push_back(2);
  task.sizes = sizes.data();
  task.dims = static_cast<int>(sizes.size());

  for_each_operand(tensors, task, [&](const at::TensorBase& tensor, Operand& operand) {
    std::vector<std::int64_t> strides;
    for (const std::int64_t dim : dims) strides.push_back(tensor.stride(dim) * pair);
    if (pair == 2) strides.push_back(1);
    std::int64_t dense = 1;
    bool linear = true;
    for (int dim = task.dims - 1; dim >= 0; --dim) {
      linear &= strides[dim] == dense;
      dense *= sizes[dim];
    }
    if (!linear) operand.strides = layouts_.emplace_back(std::move(strides)).data();
  });
}

void Plan::finish() {
  if (written_ != written_before_) {
    written_before_ = written_;
    written_sorted_ = written_;
    std::erase_if(written_sorted_, [](const Span& span) { return span.begin == span.end; });
    std::ranges::sort(written_sorted_, {}, &Span::begin);
    writes_overlap_ = std::ranges::adjacent_find(written_sorted_, [](const Span& a, const Span& b) {
                        return a.end > b.begin;
                      }) != written_sorted_.end();
  }
  in_order_ = writes_overlap_;
  for (std::size_t k = 0; !in_order_ && k < entries_.size(); ++k)
    in_order_ = grad_scale_ == 0.0 && gradient_shares_memory(k);
}

// Whether a gradient lies in memory that this step writes. Only a view can, which spares all other
// gradients the search.
bool Plan::gradient_shares_memory(std::size_t k) const {
  if (entries_[k].tensors.grad->storage().use_count() == 1) return false;
  const Span& grad = gradients_[k];
  const auto next = std::ranges::lower_bound(written_sorted_, grad.end, {}, &Span::begin);
  return next != written_sorted_.begin() && std::prev(next)->end > grad.begin;
}

void Plan::commit() {
  for (std::size_t k = 0; k < entries_.size(); ++k) {
    Entry& entry = entries_[k];
    const Tensors& tensors = entry.tensors;
    const double step = count_step(*tensors.step);
    entry.coefficients = coefficients_for(entry, tasks_[k].arithmetic, step);
    tensors.param->unsafeGetTensorImpl()->bump_version();
    tensors.step->unsafeGetTensorImpl()->bump_version();
    for (int state = 0; state < tasks_[k].state_count; ++state)
      tensors.states[state]->unsafeGetTensorImpl()->bump_version();
    if (grad_scale_ != 0.0) tensors.grad->unsafeGetTensorImpl()->bump_version();
  }
  for (std::size_t k = 0; k < entries_.size(); ++k)
    tasks_[k].update = &coefficients_[entries_[k].coefficients];
}

// Nearly always the parameters of a group have taken the same number of steps.
std::size_t Plan::coefficients_for(const Entry& entry, Float arithmetic, double step) {
  const CoefficientKey key{entry.group, step, arithmetic};
  if (keys_.empty() || keys_.back() != key) {
    const Group& group = groups_[entry.group];
    keys_.push_back(key);
    group.algorithm->variants[group.present].coefficients(group.hypers, step, arithmetic,
                                                          coefficients_.emplace_back());
  }
  return keys_.size() - 1;
}

void Plan::hold() {
  for (const Entry& entry : entries_) {
    const Tensors& tensors = entry.tensors;
    held_.push_back(tensors.param->storage());
    held_.push_back(tensors.grad->storage());
    for (int k = 0; k < state_count(groups_[entry.group]); ++k)
      held_.push_back(tensors.states[k]->storage());
  }
}

void Plan::sweep() const {
  if (tasks_.empty()) return;
  RECORD_FUNCTION(std::string("onepass::") + groups_.front().algorithm->name, {});
  if (!in_order_) return onepass::sweep(tasks_, ends_);
  for (const Task& task : tasks_) sweep_task(task, 0, task.size);
}

}  // namespace onepass
