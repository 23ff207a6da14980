#include "tables.h"

#include <algorithm>
#include <utility>

#include "../plan.h"

namespace onepass::cuda {

Scalar scalar_of(const at::TensorBase& number) {
  Scalar scalar{.kind = Scalar::Kind::kInt64};
  if (number.scalar_type() == at::kFloat) scalar.kind = Scalar::Kind::kFloat32;
  if (number.scalar_type() == at::kDouble) scalar.kind = Scalar::Kind::kFloat64;
  scalar.data = number.mutable_data_ptr();
  return scalar;
}

namespace {

std::int64_t bytes_of(Float type) {
  return type == Float::kFloat64 ? 8 : type == Float::kFloat32 ? 4 : 2;
}

std::int64_t sum_blocks_of(const onepass::Task& task) {
  return task.arithmetic == Float::kFloat64 ? onepass::sum_blocks_of<double>(task.size)
                                            : onepass::sum_blocks_of<float>(task.size);
}

// The parameter, its gradient and its states.
template <class Visit>
void for_each_operand(const onepass::Task& task, const Visit& visit) {
  visit(0, task.param);
  visit(1, task.grad);
  for (int k = 0; k < task.state_count; ++k) visit(2 + k, task.states[k]);
}

// Whether vectors of all operands can be loaded at one go, from their first element on.
bool is_aligned(const onepass::Task& task) {
  if (task.sizes != nullptr) return false;
  const std::int64_t vector = task.arithmetic == Float::kFloat64 ? 2 : 4;
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
    if (task->sizes != nullptr) layout_words += task->dims * (3 + task->state_count);
    if (its_group != group) hyper_count += its_group->algorithm->hypers.size();
    group = its_group;
  }
  const auto place = [this](std::size_t bytes) {
    return std::exchange(size, (size + bytes + 15) / 16 * 16);
  };
  tasks = place(parameters.size() * sizeof(Task));
  hypers = place(hyper_count * sizeof(Scalar));
  layouts = place(layout_words * sizeof(std::int64_t));
  chunk_table = place((chunks + sum_chunks) * sizeof(std::uint32_t));
  copied = size;
  coefficients = place(parameters.size() * kCoefficientBytes);
  block_sums = place(blocks * kMaxSquares * sizeof(double));
}

void Tables::pack(std::vector<std::byte>& staging, c10::Device device,
                  std::vector<at::Tensor>& moved) const {
  staging.assign(copied, std::byte{0});
  auto* task = reinterpret_cast<Task*>(staging.data() + tasks);
  auto* const first_hyper = reinterpret_cast<Scalar*>(staging.data() + hypers);
  auto* const first_word = reinterpret_cast<std::int64_t*>(staging.data() + layouts);
  auto* const first_chunk = reinterpret_cast<std::uint32_t*>(staging.data() + chunk_table);
  Scalar* hyper = first_hyper;
  std::int64_t* word = first_word;
  std::uint32_t* chunk = first_chunk;
  std::uint32_t* sum_chunk = first_chunk + chunks;
  std::int64_t block = 0;
  const Group* group = nullptr;
  std::uint32_t group_hypers = 0;
  for (std::uint32_t k = 0; k < parameters.size(); ++k, ++task) {
    const auto& [swept, its_group, step, numbers] = parameters[k];
    if (its_group != group) {
      group = its_group;
      group_hypers = static_cast<std::uint32_t>(hyper - first_hyper);
      for (std::size_t h = 0; h < group->algorithm->hypers.size(); ++h)
        (hyper++)->value = group->hypers[h];
      for (const auto& [h, number] : group->on_device) {
        moved.push_back(number.to(device, number.scalar_type(), /*non_blocking=*/true));
        first_hyper[group_hypers + h] = scalar_of(moved.back());
      }
    }
    task->size = swept->size;
    task->step = step;
    std::ranges::copy(numbers, task->numbers);
    task->hypers = group_hypers;
    task->maximize = swept->maximize;
    task->aligned = is_aligned(*swept);
    for_each_operand(*swept, [&](int operand, const Operand& lies) {
      task->operands[operand] = lies.data;
      task->types[operand] = lies.type;
    });
    task->layout = -1;
    if (swept->sizes != nullptr) {
      task->layout = word - first_word;
      task->dims = swept->dims;
      pack_layout(*swept, word);
      word += swept->dims * (3 + swept->state_count);
    }
    task->first_chunk = static_cast<std::uint32_t>(chunk - first_chunk);
    chunk = std::fill_n(chunk, divided_up(swept->size, chunk_size), k);
    if (kernels.sum_blocks == nullptr) continue;
    task->first_block = block;
    task->first_sum_chunk = static_cast<std::uint32_t>(sum_chunk - first_chunk - chunks);
    block += sum_blocks_of(*swept);
    sum_chunk = std::fill_n(sum_chunk, divided_up(sum_blocks_of(*swept), kSumThreads / kLanes), k);
  }
}

// The sizes, and the strides of each operand; one that lies in order has those of the order.
void Tables::pack_layout(const onepass::Task& task, std::int64_t* words) {
  std::copy_n(task.sizes, task.dims, words);
  for_each_operand(task, [&](int operand, const Operand& lies) {
    std::int64_t* const strides = words + (operand + 1) * task.dims;
    std::int64_t in_order = 1;
    for (int dim = task.dims - 1; dim >= 0; --dim) {
      strides[dim] = lies.strides == nullptr ? in_order : lies.strides[dim];
      in_order *= task.sizes[dim];
    }
  });
}

}  // namespace onepass::cuda
