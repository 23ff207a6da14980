#include "launcher.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string_view>
#include <utility>

#include "../cuda/runtime.h"
#include "../step/group.h"
#include "../tensor/checks.h"
#include "../tensor/torch_compat.h"
#include "device.h"

namespace onepass::cuda {

namespace {

const RuleKernels& kernels_of(std::string_view rule) {
  return *std::ranges::find(all_kernels(), rule, &RuleKernels::name);
}

}  // namespace

void check_supported(c10::Device device) {
  static std::atomic<std::uint64_t> known = 0;  // devices, a bit each
  const std::uint64_t bit = std::uint64_t{1} << (device.index() % 64);
  if ((known & bit) != 0) return;
  TORCH_CHECK(!all_kernels().empty(), "tensors are on ", device, ", but this build of onepass ",
              "has kernels for the CPU only; install it with nvcc on PATH, or move the model to ",
              "the CPU");
  const c10::DeviceGuard guard(device);
  use_device(device.index());
  const std::string error = kernels_error();
  TORCH_CHECK(error.empty(), "the kernels of this build of onepass do not run on ", device, ": ",
              error, "; onepass.build_info() says what they were built for");
  known |= bit;
}

void check_number_on_device(const at::TensorBase& number, const std::string& name,
                            const std::string& where) {
  TORCH_CHECK_VALUE(number.numel() == 1, "Tensor ", name, " must be 1-element", where);
  const at::ScalarType type = number.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble || type == at::kLong, "Tensor ", name,
                   " has dtype ", type, where,
                   "; on a device it must be float32, float64 or int64");
  TORCH_CHECK_VALUE(number.layout() == at::kStrided && !needs_dispatcher(number), "Tensor ", name,
                    " must be a plain dense tensor", where);
  const std::size_t end = (number.storage_offset() + 1) * number.itemsize();
  TORCH_CHECK_VALUE(end <= number.storage().nbytes(), "the memory of Tensor ", name,
                    " was freed or resized", where, "; set it anew");
}

c10::Stream Launcher::stream() const {
  return c10::impl::getDeviceGuardImpl(device_.type())->getStream(device_);
}

void* Launcher::stream_handle() const {
  return device_.is_cuda() ? handle_of_current(stream()) : nullptr;
}

// The tables in the device's memory, copied there unless they are there already.
std::byte* Launcher::upload(const Tables& tables) {
  Memory& memory = memories_[ready_.size()];
  const bool fits = memory.stream == stream() && memory.device.defined() &&
                    memory.device.numel() >= static_cast<std::int64_t>(tables.size);
  if (fits && memory.staged == staging_)
    return static_cast<std::byte*>(memory.device.mutable_data_ptr());
  memory.staged.clear();  // whatever fails from here on
  const auto bytes = at::TensorOptions().dtype(at::kByte);
  // Memory for the copy comes from torch, which takes it back only when the copy is done.
  const at::Tensor host =
      at::empty({static_cast<std::int64_t>(tables.copied)}, bytes.pinned_memory(device_.is_cuda()));
  std::memcpy(host.mutable_data_ptr(), staging_.data(), tables.copied);
  if (!fits) {
    memory.device = at::empty({static_cast<std::int64_t>(tables.size)}, bytes.device(device_));
    memory.stream = stream();
  }
  memory.device.narrow(0, 0, host.numel()).copy_(host, /*non_blocking=*/true);
  std::swap(memory.staged, staging_);
  return static_cast<std::byte*>(memory.device.mutable_data_ptr());
}

void Launcher::stage_launch(std::span<const Parameter> parameters, const Kernels& kernels,
                            const Scaling& scaling) {
  const Tables tables(parameters, kernels);
  tables.pack(staging_, device_, moved_);
  if (memories_.size() == ready_.size()) memories_.emplace_back();
  std::byte* const start = is_capturing(stream_handle())
                               ? keep_for_graph(staging_.data(), tables.copied, tables.size)
                               : upload(tables);
  TORCH_CHECK(start != nullptr, "a step cannot be captured on ", device_, ": ", last_error());
  const Launch launch{
      .tasks = reinterpret_cast<const DeviceTask*>(start + tables.tasks),
      .coefficients = start + tables.coefficients,
      .hypers = reinterpret_cast<const HostOrDeviceScalar*>(start + tables.hypers),
      .layouts = reinterpret_cast<const std::int64_t*>(start + tables.layouts),
      .chunks = reinterpret_cast<const std::uint32_t*>(start + tables.chunk_table),
      .block_sums = reinterpret_cast<double*>(start + tables.block_sums),
      .grad_scale = scaling.grad_scale,
      .found_inf = scaling.found_inf,
      .known_grad_scale = scaling.known_grad_scale,
      .task_count = static_cast<std::uint32_t>(parameters.size()),
      .chunk_size = tables.chunk_size,
  };
  ready_.push_back({&kernels, launch, tables.chunks, tables.sum_chunks});
}

// All parameters have one algorithm. One launch takes those with the same kernels, in nearly every
// step all of them.
void Launcher::stage(std::span<const Parameter> parameters, const Scaling& scaling,
                     Sharing sharing) {
  const c10::DeviceGuard guard(device_);
  if (device_.is_cuda()) use_device(device_.index());
  ready_.clear();
  moved_.clear();
  const RuleKernels& rule = kernels_of(parameters.front().group->algorithm->name);
  const auto kernels_for = [&rule](const Parameter& parameter) {
    const int real = parameter.task->arithmetic == Format::kFloat64 ? 1 : 0;
    return &rule.variants[parameter.group->variant_index()][real];
  };
  const auto alike = [&](const Parameter& a, const Parameter& b) {
    return sharing == Sharing::kNone && kernels_for(a) == kernels_for(b);
  };
  const auto stage_runs = [&](std::span<const Parameter> all) {
    for (auto begin = all.begin(); begin != all.end();) {
      const auto end = std::find_if(begin + 1, all.end(),
                                    [&](const Parameter& other) { return !alike(*begin, other); });
      stage_launch({begin, end}, *kernels_for(*begin), scaling);
      begin = end;
    }
  };
  if (sharing == Sharing::kSome || std::ranges::is_sorted(parameters, {}, kernels_for))
    return stage_runs(parameters);
  std::vector<Parameter> sorted(parameters.begin(), parameters.end());
  std::ranges::stable_sort(sorted, {}, kernels_for);
  stage_runs(sorted);
}

void Launcher::run() {
  const c10::DeviceGuard guard(device_);
  if (device_.is_cuda()) use_device(device_.index());
  void* const stream = stream_handle();
  for (const auto& [kernels, launch, chunks, sum_chunks] : ready_) {
    kernels->prepare(launch, divided_up(launch.task_count, kWarp), stream);
    if (kernels->sum_blocks != nullptr) {
      Launch sums = launch;
      sums.chunks += chunks;
      if (sum_chunks > 0) kernels->sum_blocks(sums, sum_chunks, stream);
      kernels->finish(launch, launch.task_count, stream);
    }
    if (chunks > 0) kernels->sweep(launch, chunks, stream);
  }
  moved_.clear();
  const std::string error = last_error();
  TORCH_CHECK(error.empty(), "the step on ", device_, " failed: ", error);
}

}  // namespace onepass::cuda
