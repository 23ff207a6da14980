#include "plan.h"

#include <ATen/Functions.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "cuda/place.h"
#include "sweep/versions.h"

namespace onepass {
namespace {

bool same_coefficients(const Group& a, const Group& b) {
  if (&a == &b || a.algorithm != b.algorithm || a.present != b.present) return &a == &b;
  // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): 0 and -0 may count as different
  return std::memcmp(a.hypers, b.hypers, sizeof(a.hypers)) == 0;
}

// What belongs to a device, made where nothing does yet. Devices are few.
template <class Value>
Value& found(std::vector<std::pair<c10::Device, Value>>& by_device, c10::Device device,
             Value made) {
  for (auto& [its_device, value] : by_device)
    if (its_device == device) return value;
  return by_device.emplace_back(device, std::move(made)).second;
}

}  // namespace

void Plan::begin(std::span<const Group> groups, const Scaler& scaler) {
  clear();
  groups_ = groups;
  sums_ = std::ranges::any_of(groups,
                              [](const Group& group) { return group.variant().sums != nullptr; });
  // Scaled gradients are written too: no conclusion about them is kept.
  if (scaler.scales() || scaled_ || emulation_ != cuda::emulated() ||
      instruction_set_ != instruction_set())
    origins_.clear();
  scaler_ = scaler;
  scaled_ = scaler.scales();
  emulation_ = cuda::emulated();
  instruction_set_ = instruction_set();
}

void Plan::clear() {
  groups_ = {};
  entries_.clear();
  coefficients_.clear();
  key_ = {};
  layouts_.clear();
  resolved_.clear();
  rows_.clear();
  new_decay_logs_.clear();
  held_.clear();
  scaler_.device_grad_scale.reset();
  scaler_.found_inf.reset();
  moved_.clear();
}

Tensors& Plan::add(int group, int index, const Tensors& tensors) {
  return entries_.emplace_back(tensors, group, index).tensors;
}

void Plan::lay_end_to_end() {
  ends_.clear();
  std::int64_t end = 0;
  for (std::size_t k = 0; k < tasks_.size(); ++k)
    ends_.push_back(end += entries_[k].on_device ? 0 : tasks_[k].size);
}

// The spans of a parameter's numbers, which threads of a device would change at the same time.
void Plan::add_numbers(const Entry& entry, std::vector<Span>& spans) const {
  const auto add = [&spans](const at::TensorBase* number) {
    if (number == nullptr || !cuda::number_on_device(*number)) return;
    const auto* const begin = static_cast<const std::byte*>(number->const_data_ptr());
    spans.push_back({begin, begin + number->itemsize()});
  };
  add(entry.tensors.step);
  for (const at::TensorBase* number : entry.tensors.numbers) add(number);
}

// Whether tasks share memory, by all spans that are written and then by each gradient.
void Plan::find_shared_memory() {
  if (!writes_changed_ && !grads_changed_) return;
  if (writes_changed_) {
    written_sorted_.clear();
    for (std::size_t k = 0; k < tasks_.size(); ++k)
      for (int operand = 0; operand < 2 + tasks_[k].state_count; ++operand)
        if (const Span& span = origins_[k].spans[operand];
            span.begin != span.end && (operand != 1 || scaled_))
          written_sorted_.push_back(span);
    for (const Entry& entry : entries_)
      if (entry.on_device) add_numbers(entry, written_sorted_);
    std::ranges::sort(written_sorted_, {}, &Span::begin);
    writes_overlap_ = std::ranges::adjacent_find(written_sorted_, [](const Span& a, const Span& b) {
                        return a.end > b.begin;
                      }) != written_sorted_.end();
  }
  in_order_ = writes_overlap_;
  gaps_.resize(tasks_.size());
  for (std::size_t k = 0; !in_order_ && k < tasks_.size(); ++k)
    in_order_ = !scaled_ && gradient_shares_memory(k);
  writes_changed_ = grads_changed_ = false;
}

// Whether a gradient lies in memory that this step writes. The gap between two written spans where
// it lay in the step before is nearly always where it lies again, which spares the search.
bool Plan::gradient_shares_memory(std::size_t k) {
  const Span& grad = origins_[k].spans[1];
  const std::size_t count = written_sorted_.size();
  std::size_t& next = gaps_[k];
  const auto fits = [&] {
    return next <= count && (next == 0 || written_sorted_[next - 1].end <= grad.begin) &&
           (next == count || written_sorted_[next].begin >= grad.end);
  };
  if (grad.begin == nullptr || fits()) return false;
  const auto after = std::ranges::lower_bound(written_sorted_, grad.end, {}, &Span::begin);
  next = static_cast<std::size_t>(after - written_sorted_.begin());
  return !fits();
}

void Plan::commit() {
  coefficients_.reserve(entries_.size());  // tasks point to its elements
  for (std::size_t k = 0; k < entries_.size(); ++k) {
    if (const std::size_t later = k + kHeadersAhead; later < entries_.size()) {
      prefetch(entries_[later].count);
      entries_[later].tensors.for_each<prefetch_version_header>(tasks_[later].state_count);
    }
    if (const std::size_t later = k + kPartsAhead; later < entries_.size())
      entries_[later].tensors.for_each<prefetch_version>(tasks_[later].state_count);
    const Tensors& tensors = entries_[k].tensors;
    Task& task = tasks_[k];
    double step = tensors.is_new ? 1.0 : 2.0;
    if (entries_[k].count != nullptr) {
      step = ++*entries_[k].count;
    } else if (tensors.step != nullptr && !cuda::number_on_device(*tensors.step)) {
      step = count_step(*tensors.step);
    }
    if (tensors.step != nullptr) tensors.step->unsafeGetTensorImpl()->bump_version();
    if (tensors.decay_log.sum != nullptr) catch_up(entries_[k]);
    if (entries_[k].rows != nullptr && !entries_[k].rows->keep.empty())
      task.row_keep = entries_[k].rows->keep.data();
    if (entries_[k].on_device) {
      for (std::size_t n = 0; n < groups_[entries_[k].group].algorithm->numbers.size(); ++n)
        tensors.numbers[n]->unsafeGetTensorImpl()->bump_version();
    } else {
      entries_[k].coefficients = &coefficients_for(entries_[k], task.arithmetic, step);
      task.update = entries_[k].coefficients;
    }
    tensors.param->unsafeGetTensorImpl()->bump_version();
    for (int state = 0; state < task.state_count; ++state)
      tensors.states[state]->unsafeGetTensorImpl()->bump_version();
    if (scaled_) tensors.grad->unsafeGetTensorImpl()->bump_version();
  }
}

// Rows with a gradient catch up in the sweep, and all of them before a dense one.
void Plan::catch_up(const Entry& entry) {
  const Group& group = groups_[entry.group];
  const DecayLog& log = entry.tensors.decay_log;
  if (entry.rows != nullptr) {
    onepass::catch_up(*entry.rows, log, group.algorithm->kept_without_gradient(group.hypers));
  } else {
    onepass::catch_up(*entry.tensors.param, log);
  }
  log.sum->unsafeGetTensorImpl()->bump_version();
  log.at_row->unsafeGetTensorImpl()->bump_version();
}

// Nearly always the parameters of a group have taken the same number of steps, and then their
// numbers are the same too; and many a group is like the one before.
Coefficients& Plan::coefficients_for(const Entry& entry, Float arithmetic, double step) {
  const Group& group = groups_[entry.group];
  const std::size_t count = group.algorithm->numbers.size();
  if (&group == key_.group && step == key_.step && arithmetic == key_.arithmetic && count == 0 &&
      !sums_)
    return coefficients_.back();
  Number numbers[kMaxNumbers] = {};
  for (std::size_t k = 0; k < count; ++k) numbers[k] = read_number(*entry.tensors.numbers[k]);
  const CoefficientKey key{&group, step, arithmetic, {numbers[0], numbers[1]}};
  const bool same = key_.group != nullptr && step == key_.step && arithmetic == key_.arithmetic &&
                    key.numbers == key_.numbers && same_coefficients(group, *key_.group);
  if (!same || sums_) {  // sums make a parameter's coefficients its own
    key_ = key;
    group.variant().coefficients(group.hypers, step, numbers, arithmetic,
                                 coefficients_.emplace_back());
    next_numbers_ = {numbers[0], numbers[1]};
  }
  for (std::size_t k = 0; k < count; ++k) {
    write_number(*entry.tensors.numbers[k], next_numbers_[k].value);
    entry.tensors.numbers[k]->unsafeGetTensorImpl()->bump_version();
  }
  return coefficients_.back();
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

// Gives coefficients the sums over their parameters that they wait for.
void Plan::finish_coefficients(std::size_t first, std::size_t last) {
  if (!sums_) return;
  const std::span tasks = std::span(tasks_).subspan(first, last - first);
  squares_.resize(tasks.size() * kMaxSquares);
  sum_squares(tasks, partial_squares_, squares_.data());
  for (std::size_t k = first; k < last; ++k) {
    if (tasks_[k].sums == nullptr) continue;
    const Group& group = groups_[entries_[k].group];
    const Tensors& tensors = entries_[k].tensors;
    Number numbers[kMaxNumbers] = {};
    const std::size_t count = group.algorithm->numbers.size();
    for (std::size_t n = 0; n < count; ++n) numbers[n] = read_number(*tensors.numbers[n]);
    group.variant().finish(&squares_[(k - first) * kMaxSquares],
                           static_cast<double>(tasks_[k].size), numbers, tasks_[k].arithmetic,
                           *entries_[k].coefficients);
    for (std::size_t n = 0; n < count; ++n) write_number(*tensors.numbers[n], numbers[n].value);
  }
}

void Plan::sweep() {
  if (entries_.empty()) return;
  RECORD_FUNCTION(std::string("onepass::") + groups_.front().algorithm->name, {});
  sweep_on_devices();
  if (elements() == 0 && !sums_) return;
  if (!in_order_) {
    finish_coefficients(0, tasks_.size());
    return onepass::sweep(tasks_, ends_);
  }
  for (std::size_t k = 0; k < tasks_.size(); ++k) {
    if (entries_[k].on_device) continue;
    finish_coefficients(k, k + 1);
    sweep_task(tasks_[k], 0, tasks_[k].size);
  }
}

bool Plan::steps_on_cpu() const {
  return std::ranges::any_of(entries_, [](const Entry& entry) { return !entry.on_device; });
}

// Sorts the parameters on devices by device, with their numbers.
void Plan::gather_on_devices() {
  for (auto& [device, parameters] : on_devices_) parameters.clear();
  for (std::size_t k = 0; k < entries_.size(); ++k) {
    const Entry& entry = entries_[k];
    if (!entry.on_device) continue;
    const Tensors& tensors = entry.tensors;
    const Group& group = groups_[entry.group];
    cuda::Parameter& parameter =
        found(on_devices_, tensors.param->device(), {}).emplace_back(&tasks_[k], &group);
    if (tensors.step != nullptr && cuda::number_on_device(*tensors.step)) {
      parameter.step = cuda::scalar_of(*tensors.step);
    } else {
      parameter.step.value = next_step(entry);
    }
    for (std::size_t n = 0; n < group.algorithm->numbers.size(); ++n)
      parameter.numbers[n] = cuda::scalar_of(*tensors.numbers[n]);
  }
}

double Plan::next_step(const Entry& entry) {
  if (entry.tensors.step == nullptr) return entry.tensors.is_new ? 1.0 : 2.0;
  return entry.count != nullptr ? *entry.count + 1.0f : next_count(*entry.tensors.step);
}

void Plan::stage() {
  gather_on_devices();
  for (const auto& [device, parameters] : on_devices_)
    if (!parameters.empty()) stage_on(device, parameters);
}

void Plan::stage_on(c10::Device device, const std::vector<cuda::Parameter>& parameters) {
  const c10::InferenceMode outside(false);  // so that steps outside go on with what is made here
  cuda::Scaling scaling{.known_grad_scale = static_cast<float>(scaler_.grad_scale)};
  const auto place = [&](const at::Tensor& number, const float*& address) {
    if (!number.defined()) return;
    moved_.push_back(number.to(device, at::kFloat, /*non_blocking=*/true));
    address = moved_.back().const_data_ptr<float>();
  };
  if (scaler_.grad_scale == 0.0) place(scaler_.device_grad_scale, scaling.grad_scale);
  place(scaler_.found_inf, scaling.found_inf);
  const auto sharing = in_order_ ? cuda::Sharing::kSome : cuda::Sharing::kNone;
  found(device_steps_, device, cuda::DeviceSteps(device)).stage(parameters, scaling, sharing);
}

void Plan::sweep_on_devices() {
  for (const auto& [device, parameters] : on_devices_)
    if (!parameters.empty()) found(device_steps_, device, cuda::DeviceSteps(device)).run();
}

}  // namespace onepass
