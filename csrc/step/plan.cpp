#include "plan.h"

#include <algorithm>
#include <utility>

#include "../sweep/instruction_sets.h"
#include "../tensor/codes.h"
#include "validate.h"

namespace onepass {

void Plan::begin(std::span<const Group> groups, const Scaler& scaler, int first_group) {
  clear();
  first_group_ = first_group;
  groups_ = groups;
  scaler_ = scaler;
  sums_ = std::ranges::any_of(groups,
                              [](const Group& group) { return group.variant().sums != nullptr; });
  needs_grad_norm_ = std::ranges::any_of(groups, &Group::needs_grad_norm);
  const bool scaled = scaler.scales();
  const bool as_before =
      scaled == context_.scaled && needs_grad_norm_ == context_.needs_grad_norm &&
      context_.instruction_set == instruction_set() && context_.emulation == cuda::emulated() &&
      std::ranges::equal(groups, context_.kinds, {}, &Group::kind);
  transforms_.resize(groups.size());
  for (std::size_t k = 0; k < groups.size(); ++k)
    transforms_[k] = {.sign = groups[k].maximize ? -1.0 : 1.0, .scale = scaler.grad_scale};
  if (as_before) return;
  tasks_.clear();
  origins_.clear();
  overlap_.mark_written();
  context_ = {scaled, needs_grad_norm_, instruction_set(), cuda::emulated(), {}};
  for (const Group& group : groups) context_.kinds.push_back(group.kind());
}

void Plan::clear() {
  groups_ = {};
  entries_.clear();
  on_devices_ = 0;
  catches_up_ = false;
  grad_norm_.reset();
  coefficients_.clear();
  devices_.clear();
  memory_.clear();
  if (leading_.has_followers)
    for (Task& task : tasks_) task.follower = nullptr;
  leading_.has_followers = leading_.has_leader = false;
  scaler_.device_grad_scale.reset();
  scaler_.found_inf.reset();
}

void Plan::add(const Tensors& tensors, const Subject& subject) {
  const std::size_t k = entries_.size();
  Entry& entry = entries_.emplace_back(tensors, subject.group, subject.index);
  if (k == tasks_.size()) {
    overlap_.mark_written();
    origins_.resize(k + 1);
    tasks_.emplace_back();
  }
  const Validation validation(group_of(k), scaler_, subject, memory_);
  entry.on_device = tensors.grad != nullptr && cuda::on_device(*tensors.param);
  if (entry.on_device) {
    check_device(*tensors.param, subject);
    validation.check_offered_on_devices(tensors, needs_grad_norm_);
  }
  on_devices_ += entry.on_device ? 1 : 0;
  validation.check_numbers(entry);
  ByteRanges ranges;  // of operands that there are: to clear it for each takes long
  bool usual = validation.take_fast_path(entry.tensors, ranges);
  if (usual && reuse_task(k, ranges)) return;
  const int states = group_of(k).state_count;
  std::fill(ranges.begin() + 2 + states, ranges.begin() + kExponents, ByteRange{});
  std::fill(ranges.begin() + kExponents + (tensors.has_codes ? states : 0), ranges.end(),
            ByteRange{});
  usual = usual && is_supported(*tensors.param);
  origins_[k].usual = false;
  if (!usual) ranges = validation.check_operands(entry);
  validation.check_separate(entry.tensors, ranges);
  make_task(k, ranges, usual);
}

// Whether the task of the step before is that of this one, but for the place of the gradient. The
// type and the length of one range decide those of all, but for codes, whose blocks follow the
// shape.
bool Plan::reuse_task(std::size_t k, const ByteRanges& ranges) {
  const Entry& entry = entries_[k];
  TaskOrigin& origin = origins_[k];
  Task& task = tasks_[k];
  const bool has_codes = entry.tensors.has_codes;
  bool same = origin.usual && origin.group == entry.group && origin.has_codes == has_codes &&
              origin.type == entry.tensors.param->dtype() && origin.ranges[0] == ranges[0] &&
              origin.device_count == entry.device_count();
  if (same && has_codes) same = task.blocks == block_rows_of(*entry.tensors.param);
  for (int state = 0; same && state < task.state_count; ++state)
    same =
        origin.ranges[2 + state].begin == ranges[2 + state].begin &&
        (!has_codes || origin.ranges[kExponents + state].begin == ranges[kExponents + state].begin);
  if (!same || origin.ranges[1].begin == ranges[1].begin) return same;
  if (scaler_.scales()) return false;  // it is written: the search for shared memory begins anew
  for (int operand = 0; operand < 2 + task.state_count; ++operand)
    if (operand != 1 && ranges[1].overlaps(ranges[operand])) return false;
  for (int state = 0; has_codes && state < task.state_count; ++state)
    if (ranges[1].overlaps(ranges[kExponents + state])) return false;
  origin.ranges[1] = ranges[1];
  task.grad.data = const_cast<std::byte*>(ranges[1].begin);
  overlap_.move_gradient(k, ranges[1]);
  return true;
}

SweepOrder Plan::order_of(const Entry& entry, bool usual) const {
  if (usual) return SweepOrder::kUsual;
  const Group& group = groups_[entry.group];
  const bool by_index = entry.rows != nullptr || entry.keep != nullptr || needs_grad_norm_ ||
                        entry.tensors.has_codes || group.rounds_randomly() ||
                        group.variant().sums != nullptr;
  return by_index ? SweepOrder::kOfIndices : SweepOrder::kOfMemory;
}

void Plan::make_task(std::size_t k, const ByteRanges& ranges, bool usual) {
  const Entry& entry = entries_[k];
  const TaskOrigin before = std::exchange(origins_[k], {});
  const std::int64_t size_before = std::exchange(tasks_[k], {}).size;
  if (entry.tensors.grad == nullptr) return overlap_.mark_written();
  Task& task = tasks_[k] = task_of(entry, group_of(k), ranges, order_of(entry, usual), memory_);
  task.transform = &transforms_[entry.group];
  const bool is_alike =
      k > 0 && entry.group == entries_[k - 1].group && entry.on_device == entries_[k - 1].on_device;
  choose_loops(task, group_of(k), entry.on_device, is_alike ? &tasks_[k - 1] : nullptr);
  origins_[k] = {ranges,
                 entry.group,
                 entry.tensors.param->dtype(),
                 usual,
                 entry.tensors.has_codes,
                 entry.device_count()};
  if (before.ranges != ranges || before.device_count != origins_[k].device_count ||
      task.size != size_before)
    overlap_.mark_written();
}

void Plan::close() {
  if (tasks_.size() != entries_.size()) {
    overlap_.mark_written();
    origins_.resize(entries_.size());
    tasks_.resize(entries_.size());
  }
  if (!overlap_.written_changed()) return overlap_.find(origins_, scaler_.scales(), {});
  ends_.clear();
  std::int64_t end = 0;
  for (std::size_t k = 0; k < tasks_.size(); ++k)
    ends_.push_back(end += entries_[k].on_device ? 0 : tasks_[k].size);
  overlap_.find(origins_, scaler_.scales(), numbers_on_devices(entries_));
}

}  // namespace onepass
