// Plan::validate: everything is looked at before anything is written.
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <string_view>

#include "cuda/place.h"
#include "plan.h"

namespace onepass {
namespace {

// Raises if two of a parameter's tensors have an element in common: the loops take them for
// independent. Almost always their spans say so already.
void check_separate(const Tensors& tensors, int states, std::span<const Span> spans,
                    const Subject& subject) {
  const auto tensor = [&](int k) -> const at::TensorBase& {
    return k == 0 ? *tensors.param : k == 1 ? *tensors.grad : *tensors.states[k - 2];
  };
  for (int a = 0; a < 2 + states; ++a)
    for (int b = a + 1; b < 2 + states; ++b)
      TORCH_CHECK(
          !spans[a].overlaps(spans[b]) || !share_elements(tensor(a), spans[a], tensor(b), spans[b]),
          subject.text(),
          " shares memory with its gradient or its states, or these with one another; ",
          "give each its own memory, for example by .clone()");
}

}  // namespace

void Plan::validate(const Names& names) {
  const std::size_t count = entries_.size();
  const auto states = [this](std::size_t k) { return groups_[entries_[k].group].state_count; };
  if (!std::ranges::equal(groups_, kinds_before_, {}, &Group::kind)) {
    origins_.clear();
    kinds_before_.clear();
    for (const Group& group : groups_) kinds_before_.push_back(group.kind());
  }
  writes_changed_ |= origins_.size() != count;
  tasks_.resize(count);
  origins_.resize(count);
  for (std::size_t k = 0; k < count; ++k) {
    if (const std::size_t later = k + kHeadersAhead; later < count)
      entries_[later].tensors.for_each<prefetch_header>(states(later));
    if (const std::size_t later = k + kPartsAhead; later < count)
      entries_[later].tensors.for_each<prefetch_storage>(states(later));
    validate_entry(k, {names, entries_[k].group, entries_[k].index});
  }
  if (writes_changed_) lay_end_to_end();
  find_shared_memory();
}

void Plan::validate_entry(std::size_t k, const Subject& subject) {
  Entry& entry = entries_[k];
  const Tensors& tensors = entry.tensors;
  entry.on_device = tensors.grad != nullptr && cuda::on_device(*tensors.param);
  if (entry.on_device) check_device(*tensors.param, subject);
  check_numbers(entry, subject);
  const int states = groups_[entry.group].state_count;
  Spans spans = {};
  // A log of decay cuts the parameter into rows, in the order of the indices.
  bool usual = tensors.decay_log.sum == nullptr && usual_spans(tensors, states, spans);
  if (usual && keep_task(k, spans)) return;
  usual = usual && is_supported(*tensors.param);
  origins_[k].usual = false;
  if (!usual) check_operands(entry, subject, spans);
  if (tensors.decay_log.sum != nullptr && tensors.grad != nullptr) allot_keep(entry);
  check_separate(tensors, states, spans, subject);
  make_task(k, spans, usual);
}

// Whether the task of the step before is that of this one, but for the place of the gradient. All
// spans are of one length.
inline bool Plan::keep_task(std::size_t k, const Spans& spans) {
  const Entry& entry = entries_[k];
  Origin& origin = origins_[k];
  Task& task = tasks_[k];
  bool same = origin.usual && origin.group == entry.group &&
              origin.type == entry.tensors.param->dtype() && origin.spans[0] == spans[0] &&
              origin.device_count == device_count(entry);
  for (int state = 0; same && state < task.state_count; ++state)
    same = origin.spans[2 + state].begin == spans[2 + state].begin;
  if (!same || origin.spans[1].begin == spans[1].begin) return same;
  for (int operand = 0; operand < 2 + task.state_count; ++operand)
    if (operand != 1 && spans[1].overlaps(spans[operand])) return false;
  origin.spans[1] = spans[1];
  task.grad.data = const_cast<std::byte*>(spans[1].begin);
  grads_changed_ = true;
  return true;
}

inline void Plan::check_numbers(Entry& entry, const Subject& subject) {
  const Tensors& tensors = entry.tensors;
  if (tensors.step != nullptr) {
    if (!cuda::number_on_device(*tensors.step)) entry.count = usual_count(*tensors.step);
    if (entry.count == nullptr || entry.on_device) check_step_count(entry, subject);
  }
  if (tensors.decay_log.sum != nullptr) {
    TORCH_CHECK(!entry.on_device, subject.text(), " has rows that missed decay, which catches up ",
                "on the CPU only; call catch_up() there before the model moves");
    check_decay_log(tensors.decay_log, *tensors.param, subject);
  }
  const std::span<const State> numbers = groups_[entry.group].algorithm->numbers;
  for (std::size_t k = 0; k < numbers.size(); ++k) {
    check_number(*tensors.numbers[k], *tensors.param, subject.about(numbers[k].name));
    numbers_.push_back(memory_of_number(*tensors.numbers[k]));
  }
}

// Memory for the shares that commit() computes.
void Plan::allot_keep(Entry& entry) {
  const std::size_t rows = entry.rows != nullptr
                               ? entry.rows->index.size()
                               : static_cast<std::size_t>(entry.tensors.decay_log.at_row->numel());
  entry.keep = keep_.emplace_back(rows).data();
}

void Plan::check_step_count(const Entry& entry, const Subject& subject) const {
  const at::TensorBase& step = *entry.tensors.step;
  const at::TensorBase& param = *entry.tensors.param;
  const bool host_counts = !cuda::number_on_device(step);
  const bool usual = host_counts ? entry.count != nullptr
                                 : is_usual_count(step) && step.device() == param.device();
  if (!usual) check_step(step, param, subject.about("step"));
  TORCH_CHECK(!entry.on_device || !host_counts || !scaler_.found_inf.defined(),
              subject.about("step").text(), " is on the CPU, which cannot know whether this step ",
              "is skipped; move it to ", param.device(), " with the parameter");
}

// What nearly every parameter is: all its tensors usual, of one type and shape.
inline bool Plan::usual_spans(const Tensors& tensors, int states, Spans& spans) const {
  const Usual usual(*tensors.param);
  const Access grad_access = !scaled_ ? Access::kRead : Access::kWrite;
  if (tensors.grad == nullptr || !usual.locate_param(spans[0]) ||
      !usual.locate(*tensors.grad, grad_access, spans[1]))
    return false;
  for (int k = 0; k < states; ++k)
    if (!usual.locate(*tensors.states[k], Access::kWrite, spans[2 + k])) return false;
  return true;
}

void Plan::check_operands(Entry& entry, const Subject& subject, Spans& spans) {
  const Group& group = groups_[entry.group];
  const Tensors& tensors = entry.tensors;
  const char* role = group.algorithm->roles.one_read;
  check_kind(*tensors.param, subject);
  check_writable(*tensors.param, subject);
  spans[0] = span_of(*tensors.param, Access::kWrite, subject);
  spans[1] =
      tensors.grad == nullptr ? Span{nullptr, nullptr} : check_gradient(entry, subject.about(role));
  for (int k = 0; k < group.state_count; ++k) {
    const Subject state = subject.about(group.state_names[k]);
    check_kind(*tensors.states[k], state);
    check_matches(*tensors.states[k], *tensors.param, state);
    check_writable(*tensors.states[k], state);
    spans[2 + k] = span_of(*tensors.states[k], Access::kWrite, state);
  }
}

Span Plan::check_gradient(Entry& entry, const Subject& subject) {
  const bool scaled = scaled_;
  const Access access = scaled ? Access::kWrite : Access::kRead;
  const at::TensorBase*& grad = entry.tensors.grad;
  if (grad->layout() != at::kStrided) check_sparse_gradient(entry, subject);
  if (is_lazy(*grad) && !scaled) {
    const at::Tensor lazy(*grad);
    grad = &resolved_.emplace_back(lazy._is_zerotensor() ? at::zeros(lazy.sizes(), lazy.options())
                                                         : lazy.resolve_conj().resolve_neg());
  }
  check_kind(*grad, subject);
  if (entry.rows == nullptr) check_matches(*grad, *entry.tensors.param, subject);
  if (scaled) check_writable(*grad, subject);
  return span_of(*grad, access, subject);
}

// Replaces a sparse gradient by the rows it has values for.
void Plan::check_sparse_gradient(Entry& entry, const Subject& subject) {
  const Group& group = groups_[entry.group];
  const Algorithm& row = *group.algorithm;
  TORCH_CHECK(row.no_sparse == nullptr, row.no_sparse);
  for (std::size_t k = 0; row.no_sparse_decay != nullptr && k < row.hypers.size(); ++k)
    TORCH_CHECK(row.hypers[k].key != std::string_view("weight_decay") || group.hypers[k] == 0.0,
                row.no_sparse_decay);
  TORCH_CHECK(!entry.on_device, subject.text(), " is sparse, which only steps on the CPU take so ",
              "far; call .to_dense()");
  TORCH_CHECK(!scaled_, subject.text(), " is sparse, which a step under GradScaler with ",
              "fused=True does not take; leave fused=True out");
  TORCH_CHECK(group.variant().sums == nullptr, subject.text(),
              " is sparse, but cautious steps take ", "dense gradients; call .to_dense()");
  const at::Tensor grad(*entry.tensors.grad);
  entry.rows = &rows_.emplace_back(rows_of(grad, *entry.tensors.param, subject));
  entry.tensors.grad = &entry.rows->values;
  if (row.kept_without_gradient != nullptr) want_decay_log(entry, grad.sparse_dim(), subject);
}

// From the first sparse gradient with decoupled decay on, the parameter's state has a log of it.
void Plan::want_decay_log(Entry& entry, std::int64_t sparse_dim, const Subject& subject) {
  const Group& group = groups_[entry.group];
  const DecayLog& log = entry.tensors.decay_log;
  const double kept = group.algorithm->kept_without_gradient(group.hypers);
  TORCH_CHECK_VALUE(kept > 0.0, subject.text(), " is sparse, and a step with this lr and ",
                    "weight_decay keeps ", kept, " of the parameter: rows without values could ",
                    "not catch up; it must be more than 0");
  if (log.sum == nullptr) {
    if (kept != 1.0)
      new_decay_logs_.emplace_back(*entry.tensors.param, sparse_dim, entry.group, entry.index);
    return;
  }
  TORCH_CHECK(log.at_row->dim() == sparse_dim, subject.text(), " has ", sparse_dim,
              " sparse dimensions, but the first of its kind had ", log.at_row->dim(),
              "; keep to these");
}

}  // namespace onepass
