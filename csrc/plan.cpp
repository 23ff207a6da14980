#include "plan.h"

#include <ATen/Functions.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <numeric>

namespace onepass {
namespace {

constexpr int kMaxOperands = kMaxStates + 2;  // parameter, gradient, states

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

bool same_types(const Task& a, const Task& b) {
  bool same = a.param.type == b.param.type && a.grad.type == b.grad.type;
  for (int k = 0; k < a.state_count; ++k) same &= a.states[k].type == b.states[k].type;
  return same;
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

// Tensors lie scattered over memory. Asking for the headers of the one, then for the storages of
// those whose headers have come, hides most of the time that a walk over many small tensors takes.
constexpr std::size_t kHeadersAhead = 8, kStoragesAhead = 4;

template <class Visit>
void for_each_tensor(const Tensors& tensors, int states, const Visit& visit) {
  visit(*tensors.param);
  if (tensors.grad != nullptr) visit(*tensors.grad);
  visit(*tensors.step);
  for (int k = 0; k < states; ++k) visit(*tensors.states[k]);
}

template <class Header>
void prefetch(const Header* header) {
  for (std::size_t line = 0; line < sizeof(Header); line += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(header) + line);
}

void prefetch_header(const at::TensorBase& tensor) { prefetch(tensor.unsafeGetTensorImpl()); }

void prefetch_storage(const at::TensorBase& tensor) {
  prefetch(tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
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

void Plan::add(const Tensors& tensors, int index) {
  entries_.push_back({tensors, static_cast<int>(groups_.size()) - 1, index});
}

void Plan::validate(const Names& names) {
  const std::size_t count = entries_.size();
  const auto states = [this](std::size_t k) { return groups_[entries_[k].group].state_count; };
  for (std::size_t k = 0; k < count; ++k) {
    if (k + kHeadersAhead < count)
      for_each_tensor(entries_[k + kHeadersAhead].tensors, states(k + kHeadersAhead),
                      prefetch_header);
    if (k + kStoragesAhead < count)
      for_each_tensor(entries_[k + kStoragesAhead].tensors, states(k + kStoragesAhead),
                      prefetch_storage);
    validate_entry(entries_[k], {names, entries_[k].group, entries_[k].index});
  }
  find_shared_memory();
}

void Plan::validate_entry(Entry& entry, const Subject& subject) {
  const int states = groups_[entry.group].state_count;
  Span spans[kMaxOperands] = {};
  const bool usual = usual_spans(entry.tensors, states, spans);
  if (!usual) check_operands(entry, subject, spans);
  check_separate({spans, spans + 2 + states}, subject);
  check_step(*entry.tensors.step, subject.about("step"));
  if (entry.tensors.grad != nullptr) add_task(entry, spans, usual);
}

// Accepts at one go what nearly every parameter is: all its tensors usual, of one type and shape.
bool Plan::usual_spans(const Tensors& tensors, int states, Span* spans) const {
  const at::TensorBase& param = *tensors.param;
  if (tensors.grad == nullptr || !is_usual(param) || !is_supported(param)) return false;
  const std::size_t bytes = param.numel() * param.itemsize();
  bool usual = bytes > 0;
  const auto add = [&](const at::TensorBase& tensor, Access access) {
    usual = usual && is_usual(tensor) && tensor.dtype() == param.dtype() &&
            tensor.sizes().equals(param.sizes());
    if (!usual) return;
    *spans = usual_span(tensor, bytes, access);
    usual = spans++->begin != nullptr;
  };
  add(param, Access::kWrite);
  add(*tensors.grad, grad_scale_ == 0.0 ? Access::kRead : Access::kWrite);
  for (int k = 0; k < states; ++k) add(*tensors.states[k], Access::kWrite);
  return usual;
}

void Plan::check_operands(Entry& entry, const Subject& subject, Span* spans) {
  const Group& group = groups_[entry.group];
  const Tensors& tensors = entry.tensors;
  check_kind(*tensors.param, subject);
  check_writable(*tensors.param, subject);
  spans[0] = span_of(*tensors.param, Access::kWrite, subject);
  spans[1] = tensors.grad == nullptr ? Span{nullptr, nullptr}
                                     : check_gradient(entry, subject.about("the gradient"));
  for (int k = 0; k < group.state_count; ++k) {
    const Subject state = subject.about(group.state_names[k]);
    check_kind(*tensors.states[k], state);
    check_matches(*tensors.states[k], *tensors.param, state);
    check_writable(*tensors.states[k], state);
    spans[2 + k] = span_of(*tensors.states[k], Access::kWrite, state);
  }
}

Span Plan::check_gradient(Entry& entry, const Subject& subject) {
  const bool scaled = grad_scale_ != 0.0;
  const Access access = scaled ? Access::kWrite : Access::kRead;
  const at::TensorBase*& grad = entry.tensors.grad;
  TORCH_CHECK(grad->layout() == at::kStrided, groups_[entry.group].algorithm->no_sparse);
  if (is_lazy(*grad) && !scaled) {
    const at::Tensor lazy(*grad);
    grad = &resolved_.emplace_back(lazy._is_zerotensor() ? at::zeros(lazy.sizes(), lazy.options())
                                                         : lazy.resolve_conj().resolve_neg());
  }
  check_kind(*grad, subject);
  check_matches(*grad, *entry.tensors.param, subject);
  if (scaled) check_writable(*grad, subject);
  return span_of(*grad, access, subject);
}

void Plan::add_task(const Entry& entry, const Span* spans, bool usual) {
  const Tensors& tensors = entry.tensors;
  const Group& group = groups_[entry.group];
  Task& task = tasks_.emplace_back();
  task.state_count = group.state_count;
  task.maximize = group.maximize;
  task.grad_scale = grad_scale_;
  const int pair = tensors.param->is_complex() ? 2 : 1;
  task.size = tensors.param->is_meta() ? 0 : tensors.param->numel() * pair;
  const Float type = stored_type(*tensors.param);
  const Span* span = spans;
  for_each_operand(tensors, task, [&](const at::TensorBase& tensor, Operand& operand) {
    operand.type = usual ? type : stored_type(tensor);
    operand.data = const_cast<std::byte*>(span++->begin);
  });
  if (!usual && task.size > 0 && !is_linear(tensors, task)) plan_strides(task, tensors);
  choose_loops(task, group);

  ends_.push_back(elements() + task.size);
  gradients_.push_back(spans[1]);
  written_.push_back(spans[0]);
  written_.insert(written_.end(), spans + 2, spans + 2 + task.state_count);
  if (grad_scale_ != 0.0) written_.push_back(spans[1]);
}

// Most tasks are like the one before: its choice is good for them too.
void Plan::choose_loops(Task& task, const Group& group) {
  const std::size_t k = tasks_.size() - 1;
  if (k > 0 && entries_[k].group == entries_[k - 1].group && same_types(task, tasks_[k - 1]) &&
      task.sizes == nullptr && tasks_[k - 1].sizes == nullptr) {
    task.arithmetic = tasks_[k - 1].arithmetic;
    task.in_place = tasks_[k - 1].in_place;
    task.tiled = tasks_[k - 1].tiled;
    return;
  }
  const Variant& variant = group.algorithm->variants[group.present];
  task.arithmetic = arithmetic_of(task);
  task.in_place = in_place_loop(task, variant);
  task.tiled = variant.loop(task.arithmetic == Float::kFloat64 ? kMixFloat64 : kMixFloat32);
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

void Plan::find_shared_memory() {
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
  if (grad_scale_ != 0.0) return;  // then the gradients are among what is written
  for (std::size_t k = 0; !in_order_ && k < tasks_.size(); ++k)
    in_order_ = gradient_shares_memory(k);
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
    for (int k = 0; k < groups_[entry.group].state_count; ++k)
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
