#include "task.h"

#include <algorithm>
#include <functional>
#include <iterator>

#include "../tensor/codes.h"

namespace onepass {
namespace {

// The widest type decides: float64 wherever one operand holds it, float32 otherwise.
Format arithmetic_of(const Task& task) {
  bool wide = task.param.type == Format::kFloat64 || task.grad.type == Format::kFloat64;
  for (int k = 0; k < task.state_count; ++k) wide |= task.states[k].type == Format::kFloat64;
  return wide ? Format::kFloat64 : Format::kFloat32;
}

// The loop over the very types of a task, or null where it has to go through tiles.
Loop in_place_loop(const Task& task, const Variant& variant) {
  if (task.sizes != nullptr || task.rounds_randomly()) return nullptr;
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

// Whether memory order is the same for all operands and has no gaps, so that strides do not matter.
bool is_linear(const Tensors& tensors, Task& task, bool by_index) {
  const at::TensorBase& param = *tensors.param;
  bool contiguous = true, like_param = !by_index && param.is_non_overlapping_and_dense();
  for_each_operand(tensors, task, [&](const at::TensorBase& tensor, Operand&) {
    contiguous &= tensor.is_contiguous();
  });
  if (contiguous || !like_param) return contiguous;
  for_each_operand(tensors, task, [&](const at::TensorBase& tensor, Operand&) {
    like_param &= same_strides(param, tensor);
  });
  return like_param;
}

// The order of the sweep is the parameter's order in memory, its dimensions by falling stride, or
// that of the indices. The rows of a sparse gradient lie one after the other themselves.
// Operands that lie in that order without gaps need no strides. Complex numbers are pairs: one more
// dimension.
void plan_strides(Task& task, const Entry& entry, bool by_index, StepMemory& memory) {
  const at::TensorBase& param = *entry.tensors.param;
  const std::int64_t pair = param.is_complex() ? 2 : 1;
  std::vector<std::int64_t> dims;
  for (std::int64_t dim = 0; dim < param.dim(); ++dim)
    if (param.size(dim) != 1) dims.push_back(dim);
  if (!by_index)
    std::ranges::stable_sort(dims, std::greater{},
                             [&](std::int64_t dim) { return param.stride(dim); });

  std::vector<std::int64_t>& sizes = memory.layouts.emplace_back();
  for (const std::int64_t dim : dims) sizes.push_back(param.size(dim));
  if (pair == 2) sizes.push_back(2);
  task.sizes = sizes.data();
  task.dims = static_cast<int>(sizes.size());

  for_each_operand(entry.tensors, task, [&](const at::TensorBase& tensor, Operand& operand) {
    if (entry.rows != nullptr && &operand == &task.grad) return;
    std::vector<std::int64_t> strides;
    strides.reserve(dims.size() + 1);
    for (const std::int64_t dim : dims) strides.push_back(tensor.stride(dim) * pair);
    if (pair == 2) strides.push_back(1);
    std::int64_t dense = 1;
    bool linear = true;
    for (int dim = task.dims - 1; dim >= 0; --dim) {
      linear &= strides[dim] == dense;
      dense *= sizes[dim];
    }
    if (!linear) operand.strides = memory.layouts.emplace_back(std::move(strides)).data();
  });
}

// Numbers of 16 bits are rounded as the group asks: weights, and states that are never negative.
// Those of 8 bits stagnate unless they are rounded so.
void choose_rounding(Task& task, const Group& group) {
  const auto is_short = [](const Operand& operand) { return bytes_of(operand.type) == 2; };
  if (group.rounds_weights_randomly && is_short(task.param))
    task.param.rounding = Rounding::kOfWeight;
  constexpr Rounding kOfStates[] = {Rounding::kOfState, Rounding::kOfSecondState,
                                    Rounding::kOfThirdState, Rounding::kOfFourthState};
  static_assert(std::size(kOfStates) == kMaxStates);
  const Rounding* next = kOfStates;
  for (int k = 0; k < task.state_count; ++k) {
    Operand& state = task.states[k];
    const bool is_asked =
        group.rounds_states_randomly && group.is_non_negative[k] && is_short(state);
    if (is_asked || has_blocks(state.type)) state.rounding = *next++;
  }
}

void take_exponents(Task& task, const Tensors& tensors, const ByteRanges& ranges) {
  for (int k = 0; k < task.state_count; ++k)
    if (tensors.exponents[k] != nullptr)
      task.states[k].exponents =
          reinterpret_cast<std::int8_t*>(const_cast<std::byte*>(ranges[kExponents + k].begin));
  task.blocks = block_rows_of(*tensors.param);
}

}  // namespace

Task task_of(const Entry& entry, const Group& group, const ByteRanges& ranges, SweepOrder order,
             StepMemory& memory) {
  const Tensors& tensors = entry.tensors;
  Task task;
  task.state_count = group.state_count;
  const int pair = tensors.param->is_complex() ? 2 : 1;
  task.size = tensors.param->is_meta() ? 0 : tensors.param->numel() * pair;
  const Format type = stored_type(*tensors.param);
  const bool is_of_one_type = order == SweepOrder::kUsual && !tensors.has_codes;
  const ByteRange* range = ranges.data();
  for_each_operand(tensors, task, [&](const at::TensorBase& tensor, Operand& operand) {
    operand.type = is_of_one_type ? type : stored_type(tensor);
    operand.data = const_cast<std::byte*>(range++->begin);
  });
  if (tensors.has_codes) take_exponents(task, tensors, ranges);
  if (group.rounds_randomly() || tensors.has_codes) choose_rounding(task, group);
  if (entry.rows != nullptr) {
    task.row_size = entry.rows->size * pair;
    task.rows = entry.rows->index.data();
    task.size = static_cast<std::int64_t>(entry.rows->index.size()) * task.row_size;
  } else if (entry.keep != nullptr && task.size > 0) {
    task.row_size = task.size / tensors.decay_log.at_row->numel();
  }
  const bool by_index = order == SweepOrder::kOfIndices;
  if (order != SweepOrder::kUsual && task.size > 0 && !is_linear(tensors, task, by_index))
    plan_strides(task, entry, by_index, memory);
  return task;
}

void choose_loops(Task& task, const Group& group, bool on_device, const Task* like) {
  if (like != nullptr && same_types(task, *like) && task.sizes == nullptr &&
      like->sizes == nullptr) {
    task.arithmetic = like->arithmetic;
    task.in_place = like->in_place;
    task.tiled = like->tiled;
    task.sums = like->sums;
    return;
  }
  const Variant& variant = group.variant();
  task.arithmetic = arithmetic_of(task);
  if (on_device) return;
  task.in_place = in_place_loop(task, variant);
  if (variant.sums != nullptr) task.sums = variant.sums(task.arithmetic);
  task.tiled = variant.loop(task.arithmetic == Format::kFloat64 ? kMixFloat64 : kMixFloat32);
}

}  // namespace onepass
