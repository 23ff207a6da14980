#include "plan.h"

#include <ATen/record_function.h>

#include <algorithm>
#include <string>

namespace onepass {

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

Tensors& Plan::add(int index) {
  Entry& entry = entries_.emplace_back();
  entry.group = static_cast<int>(groups_.size()) - 1;
  entry.index = index;
  return entry.tensors;
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
  if (gaps_.size() < tasks_.size()) gaps_.resize(tasks_.size());
  for (std::size_t k = 0; !in_order_ && k < tasks_.size(); ++k)
    in_order_ = gradient_shares_memory(k);
}

// Whether a gradient lies in memory that this step writes. The gap between two written spans where
// it lay in the step before is nearly always where it lies again, which spares the search.
bool Plan::gradient_shares_memory(std::size_t k) {
  const Span& grad = gradients_[k];
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
