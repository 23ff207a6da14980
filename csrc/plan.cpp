#include "plan.h"

#include <algorithm>

#include "cuda/place.h"
#include "sweep/versions.h"

namespace onepass {

void Plan::begin(std::span<const Group> groups, const Scaler& scaler) {
  clear();
  groups_ = groups;
  catches_up_ = false;
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
  keep_.clear();
  numbers_.clear();
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

bool Plan::shares_memory(const Plan& other) const {
  const auto is_hit = [](const Origin& a, const Origin& b) {
    for (std::size_t i = 0; i < a.spans.size(); ++i)
      for (std::size_t k = 0; k < b.spans.size(); ++k)
        if ((i != 1 || k != 1) && a.spans[i].overlaps(b.spans[k])) return true;
    return false;
  };
  return std::ranges::any_of(origins_, [&](const Origin& a) {
    return std::ranges::any_of(other.origins_, [&](const Origin& b) { return is_hit(a, b); });
  });
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

}  // namespace onepass
