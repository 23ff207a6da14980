#include "step.h"

#include <ATen/Functions.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "../plan.h"
#include "../rules/variants.h"
#include "place.h"
#include "runtime.h"

namespace onepass::cuda {

namespace {

template <std::size_t... part>
std::vector<Row> all_rows(std::index_sequence<part...> /*all*/) {
  std::vector<Row> rows;
  (std::ranges::move(rows_of_part<part>(), std::back_inserter(rows)), ...);
  return rows;
}

}  // namespace

const Row* find_row(std::string_view name) {
  static const std::vector<Row> rows = all_rows(std::make_index_sequence<kParts>{});
  const auto found = std::ranges::find(rows, name, &Row::name);
  return found == rows.end() ? nullptr : &*found;
}

void check_supported(c10::Device device) {
  static std::vector<c10::Device> known;
  if (std::ranges::find(known, device) != known.end()) return;
  TORCH_CHECK(find_row("sgd") != nullptr, "tensors are on ", device, ", but this build of onepass ",
              "has kernels for the CPU only; install it with nvcc on PATH, or move the model to ",
              "the CPU");
  const c10::DeviceGuard guard(device);
  use_device(device.index());
  TORCH_CHECK(has_kernels(), "this build of onepass has no kernels that run on ", device,
              "; onepass.build_info() says what it was built for: build it anew with ",
              "TORCH_CUDA_ARCH_LIST set to the device's compute capability");
  known.push_back(device);
}

Scalar scalar_of(const at::TensorBase& number) {
  Scalar scalar{.kind = Scalar::Kind::kNone};
  if (number.scalar_type() == at::kFloat) scalar.kind = Scalar::Kind::kFloat32;
  if (number.scalar_type() == at::kDouble) scalar.kind = Scalar::Kind::kFloat64;
  if (number.scalar_type() == at::kLong) scalar.kind = Scalar::Kind::kInt64;
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

constexpr std::int64_t divided_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

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

// What one launch reads and works in: where each table stands, in bytes from the start.
struct DeviceSteps::Plan {
  std::span<const Parameter> parameters;
  const Kernels& kernels;
  std::int64_t chunk_size = 0, chunks = 0, sum_chunks = 0, blocks = 0, layout_words = 0;
  std::size_t hyper_count = 0;
  std::size_t tasks = 0, hypers = 0, layouts = 0, chunk_table = 0, copied = 0;
  std::size_t coefficients = 0, block_sums = 0, size = 0;

  Plan(std::span<const Parameter> parameters, const Kernels& kernels)
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

  void pack(std::vector<std::byte>& staging) const;
  static void pack_layout(const onepass::Task& task, std::int64_t* words);
};

void DeviceSteps::Plan::pack(std::vector<std::byte>& staging) const {
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
      for (const auto& [h, number] : group->on_device)
        first_hyper[group_hypers + h] = scalar_of(number);
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
void DeviceSteps::Plan::pack_layout(const onepass::Task& task, std::int64_t* words) {
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

// The tables in the device's memory, copied there unless they are there already.
std::byte* DeviceSteps::upload(const Plan& plan, c10::Device device, const c10::Stream& stream,
                               Memory& memory) {
  plan.pack(staging_);
  const bool fits = memory.stream == stream && memory.device.defined() &&
                    memory.device.numel() >= static_cast<std::int64_t>(plan.size);
  if (fits && memory.staged == staging_)
    return static_cast<std::byte*>(memory.device.mutable_data_ptr());
  const auto bytes = at::TensorOptions().dtype(at::kByte);
  // Memory for the copy comes from torch, which takes it back only when the copy is done.
  const at::Tensor host =
      at::empty({static_cast<std::int64_t>(plan.copied)}, bytes.pinned_memory(device.is_cuda()));
  std::memcpy(host.mutable_data_ptr(), staging_.data(), plan.copied);
  if (!fits) {
    memory.device = at::empty({static_cast<std::int64_t>(plan.size)}, bytes.device(device));
    memory.stream = stream;
  }
  memory.device.narrow(0, 0, host.numel()).copy_(host, /*non_blocking=*/true);
  std::swap(memory.staged, staging_);
  return static_cast<std::byte*>(memory.device.mutable_data_ptr());
}

void DeviceSteps::launch(const Plan& plan, const Scaling& scaling, c10::Device device,
                         Memory& memory) {
  const c10::Stream stream = c10::impl::getDeviceGuardImpl(device.type())->getStream(device);
  void* const handle = device.is_cuda() ? stream.native_handle() : nullptr;
  std::byte* tables = nullptr;
  if (is_capturing(handle)) {
    plan.pack(staging_);
    tables = keep_for_graph(staging_.data(), plan.copied, plan.size);
    TORCH_CHECK(tables != nullptr, "no memory for a captured step: ", last_error());
  } else {
    tables = upload(plan, device, stream, memory);
  }
  Launch launch{
      .tasks = reinterpret_cast<const Task*>(tables + plan.tasks),
      .coefficients = tables + plan.coefficients,
      .hypers = reinterpret_cast<const Scalar*>(tables + plan.hypers),
      .layouts = reinterpret_cast<const std::int64_t*>(tables + plan.layouts),
      .chunks = reinterpret_cast<const std::uint32_t*>(tables + plan.chunk_table),
      .block_sums = reinterpret_cast<double*>(tables + plan.block_sums),
      .grad_scale = scaling.grad_scale,
      .found_inf = scaling.found_inf,
      .chunk_size = plan.chunk_size,
      .task_count = static_cast<std::uint32_t>(plan.parameters.size()),
  };
  plan.kernels.prepare(launch, divided_up(launch.task_count, kWarp), handle);
  if (plan.kernels.sum_blocks != nullptr) {
    Launch sums = launch;
    sums.chunks += plan.chunks;
    if (plan.sum_chunks > 0) plan.kernels.sum_blocks(sums, plan.sum_chunks, handle);
    plan.kernels.finish(launch, launch.task_count, handle);
  }
  if (plan.chunks > 0) plan.kernels.sweep(launch, plan.chunks, handle);
}

// All parameters have one algorithm. One launch takes those with the same kernels, in nearly every
// step all of them.
void DeviceSteps::run(c10::Device device, std::span<const Parameter> parameters,
                      const Scaling& scaling, bool in_order) {
  const c10::DeviceGuard guard(device);
  if (device.is_cuda()) use_device(device.index());
  const Row& row = *find_row(parameters.front().group->algorithm->name);
  const auto kernels_of = [&row](const Parameter& parameter) {
    const int real = parameter.task->arithmetic == Float::kFloat64 ? 1 : 0;
    return &row.variants[parameter.group->variant_index()][real];
  };
  std::size_t launches = 0;
  const auto launch_all = [&](std::span<const Parameter> some) {
    if (memories_.size() == launches) memories_.emplace_back();
    launch({some, *kernels_of(some.front())}, scaling, device, memories_[launches++]);
  };
  const Kernels* const first = kernels_of(parameters.front());
  const auto has_first = [&](const Parameter& parameter) { return kernels_of(parameter) == first; };
  if (in_order) {
    for (const Parameter& parameter : parameters) launch_all({&parameter, 1});
  } else if (std::ranges::all_of(parameters, has_first)) {
    launch_all(parameters);
  } else {
    std::vector<Parameter> sorted(parameters.begin(), parameters.end());
    std::ranges::stable_sort(sorted, {}, kernels_of);
    for (auto begin = sorted.begin(); begin != sorted.end();) {
      const auto end = std::find_if(begin, sorted.end(), [&](const Parameter& parameter) {
        return kernels_of(parameter) != kernels_of(*begin);
      });
      launch_all({begin, end});
      begin = end;
    }
  }
  const std::string error = last_error();
  TORCH_CHECK(error.empty(), "the step on ", device, " failed: ", error);
}

}  // namespace onepass::cuda
