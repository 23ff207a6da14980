#include "launch_table.h"

#include <algorithm>
#include <utility>

#include "../step/group.h"

namespace onepass::cuda {

HostOrDeviceScalar scalar_of(const at::TensorBase& number) {
  HostOrDeviceScalar scalar{.kind = HostOrDeviceScalar::Kind::kInt64};
  if (number.scalar_type() == at::kFloat) scalar.kind = HostOrDeviceScalar::Kind::kFloat32;
  if (number.scalar_type() == at::kDouble) scalar.kind = HostOrDeviceScalar::Kind::kFloat64;
  scalar.data = number.mutable_data_ptr();
  return scalar;
}

namespace {

std::int64_t sum_blocks_of(const Task& task) {
  return task.arithmetic == Format::kFloat64 ? onepass::sum_blocks_of<double>(task.size)
                                             : onepass::sum_blocks_of<float>(task.size);
}

// The parameter, its gradient and its states.
template <class Visit>
void for_each_operand(const Task& task, const Visit& visit) {
  visit(0, task.param);
  visit(1, task.grad);
  for (int k = 0; k < task.state_count; ++k) visit(2 + k, task.states[k]);
}

// Whether vectors of all operands can be loaded at one go, from their first element on.
bool is_aligned(const Task& task) {
  if (task.sizes != nullptr) return false;
  const std::int64_t vector = task.arithmetic == Format::kFloat64 ? 2 : 4;
  bool aligned = true;
  for_each_operand(task, [&](int, const Operand& operand) {
    aligned &=
        reinterpret_cast<std::uintptr_t>(operand.data) % (vector * bytes_of(operand.type)) == 0;
  });
  return aligned;
}

// Enough chunks to keep any device busy, and not so many that their table would count.
std::int64_t chunk_size_for(std::int64_t elements) {
  constexpr std::int64_t kChunks = 4096;
  std::int64_t size = kSmallestChunk;
  while (size < kLargestChunk && elements / size > kChunks) size *= 2;
  return size;
}

// Words of a task's layout: sizes, and strides for the parameter, its gradient and its states.
std::int64_t layout_words_of(const Task& task) {
  return task.sizes == nullptr ? 0 : std::int64_t{task.dims} * (3 + task.state_count);
}

// Fills the tables from their first entries on.
class Packer {
 public:
  Packer(const Tables& tables, std::byte* start)
      : tables_(tables),
        task_(reinterpret_cast<DeviceTask*>(start + tables.tasks)),
        first_hyper_(reinterpret_cast<HostOrDeviceScalar*>(start + tables.hypers)),
        hyper_(first_hyper_),
        first_word_(reinterpret_cast<std::int64_t*>(start + tables.layouts)),
        word_(first_word_),
        first_chunk_(reinterpret_cast<std::uint32_t*>(start + tables.chunk_table)),
        chunk_(first_chunk_),
        first_sum_chunk_(first_chunk_ + tables.chunks),
        sum_chunk_(first_sum_chunk_) {}

  // The parameters that follow belong to this group. Numbers of another device move to this one.
  void add_group(const Group& group, c10::Device device, std::vector<at::Tensor>& moved) {
    HostOrDeviceScalar* const hypers = hyper_;
    group_hypers_ = static_cast<std::uint32_t>(hypers - first_hyper_);
    for (std::size_t k = 0; k < group.algorithm->hypers.size(); ++k)
      (hyper_++)->value = group.hypers[k];
    for (const auto& [k, number] : group.device_hypers) {
      moved.push_back(number.to(device, number.scalar_type(), /*non_blocking=*/true));
      hypers[k] = scalar_of(moved.back());
    }
  }

  void add(const Parameter& parameter) {
    const Task& swept = *parameter.task;
    task_->size = swept.size;
    task_->step = parameter.step;
    std::ranges::copy(parameter.numbers, task_->numbers);
    task_->hypers = group_hypers_;
    task_->maximize = swept.transform->sign < 0.0;
    task_->aligned = is_aligned(swept);
    for_each_operand(swept, [&](int operand, const Operand& lies) {
      task_->operands[operand] = lies.data;
      task_->types[operand] = lies.type;
    });
    add_layout(swept);
    add_chunks(swept);
    ++task_;
    ++index_;
  }

 private:
  // The sizes, and the strides of each operand; one that lies in order has those of the order.
  void add_layout(const Task& swept) {
    task_->layout = swept.sizes == nullptr ? -1 : word_ - first_word_;
    if (swept.sizes == nullptr) return;
    task_->dims = swept.dims;
    word_ = std::copy_n(swept.sizes, swept.dims, word_);
    for_each_operand(swept, [&](int, const Operand& lies) {
      std::int64_t in_order = 1;
      for (int dim = swept.dims - 1; dim >= 0; --dim) {
        word_[dim] = lies.strides == nullptr ? in_order : lies.strides[dim];
        in_order *= swept.sizes[dim];
      }
      word_ += swept.dims;
    });
  }

  void add_chunks(const Task& swept) {
    task_->first_chunk = static_cast<std::uint32_t>(chunk_ - first_chunk_);
    chunk_ = std::fill_n(chunk_, divided_up(swept.size, tables_.chunk_size), index_);
    if (tables_.kernels.sum_blocks == nullptr) return;
    task_->first_block = block_;
    task_->first_sum_chunk = static_cast<std::uint32_t>(sum_chunk_ - first_sum_chunk_);
    block_ += sum_blocks_of(swept);
    sum_chunk_ =
        std::fill_n(sum_chunk_, divided_up(sum_blocks_of(swept), kSumThreads / kLanes), index_);
  }

  const Tables& tables_;
  DeviceTask* task_;
  std::uint32_t index_ = 0, group_hypers_ = 0;
  HostOrDeviceScalar *first_hyper_, *hyper_;
  std::int64_t *first_word_, *word_;
  std::uint32_t *first_chunk_, *chunk_, *first_sum_chunk_, *sum_chunk_;
  std::int64_t block_ = 0;
};

}  // namespace

Tables::Tables(std::span<const Parameter> parameters, const Kernels& kernels)
    : parameters(parameters), kernels(kernels) {
  std::int64_t elements = 0;
  for (const Parameter& parameter : parameters) elements += parameter.task->size;
  chunk_size = chunk_size_for(elements);
  const Group* group = nullptr;
  for (const auto& [task, its_group, step, numbers] : parameters) {
    chunks += divided_up(task->size, chunk_size);
    if (kernels.sum_blocks != nullptr) {
      blocks += sum_blocks_of(*task);
      sum_chunks += divided_up(sum_blocks_of(*task), kSumThreads / kLanes);
    }
    layout_words += layout_words_of(*task);
    if (its_group != group) hyper_count += its_group->algorithm->hypers.size();
    group = its_group;
  }
  const auto place = [this](std::size_t bytes) {
    return std::exchange(size, (size + bytes + 15) / 16 * 16);
  };
  tasks = place(parameters.size() * sizeof(DeviceTask));
  hypers = place(hyper_count * sizeof(HostOrDeviceScalar));
  layouts = place(layout_words * sizeof(std::int64_t));
  chunk_table = place((chunks + sum_chunks) * sizeof(std::uint32_t));
  copied = size;
  coefficients = place(parameters.size() * kCoefficientBytes);
  block_sums = place(blocks * kMaxSquares * sizeof(double));
}

void Tables::pack(std::vector<std::byte>& staging, c10::Device device,
                  std::vector<at::Tensor>& moved) const {
  staging.assign(copied, std::byte{0});
  Packer packer(*this, staging.data());
  const Group* group = nullptr;
  for (const Parameter& parameter : parameters) {
    if (parameter.group != group) packer.add_group(*parameter.group, device, moved);
    group = parameter.group;
    packer.add(parameter);
  }
}

}  // namespace onepass::cuda
