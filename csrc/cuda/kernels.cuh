// The four kernels of a step, the same for every rule. `prepare` counts the step and computes the
// coefficients, one thread a parameter; `sweep` is load -> rule -> store over all elements. Between
// them, for rules that wait for sums over a parameter, `sum_blocks` and `finish`.
#pragma once

#include <cmath>
#include <iterator>
#include <utility>

#include "../rules/rule.h"
#include "device_layout.h"
#include "elements.cuh"
#include "scalars.cuh"

namespace onepass::cuda {

// Thread blocks of the sweep that a multiprocessor must have room for. Without a minimum number of
// blocks nvcc targets a higher occupancy and spills registers, which costs more than waiting
// blocks; with a larger minimum it spills too.
template <int kStates, class Real>
inline constexpr int kResident =
    sizeof(Real) == 4 ? (kStates <= 2 ? 5 : 4) : (kStates <= 3 ? 4 : 3);
inline constexpr int kResidentWithSums = 2;

// Whether the gradient scaler found an overflow: then nothing changes.
ONEPASS_DEVICE bool is_skipped(const Launch& launch) {
  return launch.found_inf != nullptr && *launch.found_inf != 0.0f;
}

template <class Update>
ONEPASS_DEVICE Update& coefficients(const Launch& launch, std::int64_t task) {
  return *reinterpret_cast<Update*>(launch.coefficients + task * kCoefficientBytes);
}

// The rule with a group's hyper-parameters, each in its place by the rule's own table.
template <class Rule, std::size_t... index>
ONEPASS_DEVICE Rule rule_with(const HostOrDeviceScalar* hypers,
                              std::index_sequence<index...> /*all*/) {
  Rule rule{};
  const auto set = [&]<std::size_t k>(std::integral_constant<std::size_t, k>) {
    constexpr auto place = Rule::kHypers[k].value;
    rule.*place = read(hypers[k]);
  };
  (set(std::integral_constant<std::size_t, index>{}), ...);
  return rule;
}

template <class Rule, unsigned kVariantBits, class Real>
__global__ void __launch_bounds__(kWarp) prepare(Launch launch) {
  using Update = typename Rule::template Update<Real, kVariantBits>;
  const std::int64_t k = static_cast<std::int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  if (k >= launch.task_count || is_skipped(launch)) return;
  const DeviceTask& task = launch.tasks[k];
  const Rule rule = rule_with<Rule>(launch.hypers + task.hypers,
                                    std::make_index_sequence<std::size(Rule::kHypers)>{});
  const double step = count(task.step);
  constexpr int kNumbers = std::size(Rule::kNumbers);
  if constexpr (kNumbers == 0) {
    coefficients<Update>(launch, k) = Update(rule, step);
  } else {
    StateNumber numbers[kNumbers];
    read_numbers(task, kNumbers, numbers);
    coefficients<Update>(launch, k) = Update(rule, step, numbers);
    write_numbers(task, kNumbers, numbers);
  }
}

// What a thread block needs of one parameter. The kernels' stores could, as far as the compiler
// knows, change the records they read, and it would read them anew for every element.
template <int kOperands, class Real>
struct Part {
  void* operands[kOperands];
  Format types[kOperands];
  const std::int64_t* layout;  // or null
  int dims;
  Real sign, grad_scale;  // a scale of 0: the gradient is taken as it is

  ONEPASS_DEVICE Part(const Launch& launch, const DeviceTask& task)
      : layout(task.layout < 0 ? nullptr : launch.layouts + task.layout),
        dims(task.dims),
        sign(task.maximize ? Real(-1) : Real(1)),
        grad_scale(launch.grad_scale == nullptr ? launch.known_grad_scale : *launch.grad_scale) {
    ONEPASS_UNROLL
    for (int k = 0; k < kOperands; ++k) {
      operands[k] = task.operands[k];
      types[k] = task.types[k];
    }
  }
};

// Where the element at `i` of the sweep's order lies in each operand.
template <int kOperands>
struct Offsets {
  std::int64_t in[kOperands] = {};

  template <class Real>
  ONEPASS_DEVICE Offsets(const Part<kOperands, Real>& part, std::int64_t i) {
    if (part.layout == nullptr) {
      for (std::int64_t& offset : in) offset = i;
      return;
    }
    for (int dim = part.dims - 1; dim >= 0; --dim) {
      const std::int64_t size = part.layout[dim], index = i % size;
      const std::int64_t* const strides = part.layout + part.dims + dim;
      ONEPASS_UNROLL
      for (int k = 0; k < kOperands; ++k) in[k] += index * strides[k * part.dims];
      i /= size;
    }
  }
};

// One element of a parameter, its gradient and its states, in registers.
template <int kOperands, class Real>
struct Element {
  Real param, grad, states[kMaxStates];

  ONEPASS_DEVICE Element(const Part<kOperands, Real>& part, const Offsets<kOperands>& offsets) {
    const auto load = [&](int k) {
      return load_element<Real>(part.operands[k], part.types[k], offsets.in[k]);
    };
    param = load(0);
    grad = load(1);
    ONEPASS_UNROLL
    for (int k = 2; k < kOperands; ++k) states[k - 2] = load(k);
    if (part.grad_scale != Real(0)) grad /= part.grad_scale;
  }

  ONEPASS_DEVICE void store(const Part<kOperands, Real>& part,
                            const Offsets<kOperands>& offsets) const {
    const auto store = [&](int k, Real x) {
      store_element(part.operands[k], part.types[k], offsets.in[k], x);
    };
    store(0, param);
    if (part.grad_scale != Real(0)) store(1, grad);
    ONEPASS_UNROLL
    for (int k = 2; k < kOperands; ++k) store(k, states[k - 2]);
  }
};

template <class Update, int kOperands, class Real>
ONEPASS_DEVICE void step_element(const Update& rule, const Part<kOperands, Real>& part,
                                 std::int64_t i) {
  const Offsets<kOperands> offsets(part, i);
  Element<kOperands, Real> element(part, offsets);
  element.param = rule(element.param, part.sign * element.grad, element.states);
  element.store(part, offsets);
}

template <class Update, int kOperands, class Real>
ONEPASS_DEVICE void step_vector(const Update& rule, const Part<kOperands, Real>& part,
                                std::int64_t first) {
  constexpr int kWidth = kVector<Real>;
  Raw<Real> raw[kOperands];
  Real elements[kOperands][kWidth];
  ONEPASS_UNROLL
  for (int k = 0; k < kOperands; ++k) raw[k].load_from(part.operands[k], part.types[k], first);
  ONEPASS_UNROLL
  for (int k = 0; k < kOperands; ++k) raw[k].decode_to(elements[k], part.types[k]);
  if (part.grad_scale != Real(0)) {
    ONEPASS_UNROLL
    for (Real& grad : elements[1]) grad /= part.grad_scale;
    raw[1].encode_from(elements[1], part.types[1]);
    raw[1].store_to(part.operands[1], part.types[1], first);
  }
  ONEPASS_UNROLL
  for (int i = 0; i < kWidth; ++i) {
    Real states[kMaxStates];
    ONEPASS_UNROLL
    for (int k = 2; k < kOperands; ++k) states[k - 2] = elements[k][i];
    elements[0][i] = rule(elements[0][i], part.sign * elements[1][i], states);
    ONEPASS_UNROLL
    for (int k = 2; k < kOperands; ++k) elements[k][i] = states[k - 2];
  }
  ONEPASS_UNROLL
  for (int k = 0; k < kOperands; ++k) {
    if (k == 1) continue;  // the gradient is read only
    raw[k].encode_from(elements[k], part.types[k]);
    raw[k].store_to(part.operands[k], part.types[k], first);
  }
}

template <class Update, int kStates, class Real>
__global__ void __launch_bounds__(kSweepThreads, kResident<kStates, Real>) sweep(Launch launch) {
  if (is_skipped(launch)) return;
  const std::uint32_t k = launch.chunks[blockIdx.x];
  const DeviceTask& task = launch.tasks[k];
  const Update rule = coefficients<Update>(launch, k);
  const Part<2 + kStates, Real> part(launch, task);
  const std::int64_t begin = (blockIdx.x - task.first_chunk) * launch.chunk_size;
  const std::int64_t end =
      begin + launch.chunk_size < task.size ? begin + launch.chunk_size : task.size;
  const std::int64_t vectors = task.aligned ? (end - begin) / kVector<Real> : 0;
  for (std::int64_t i = threadIdx.x; i < vectors; i += kSweepThreads)
    step_vector(rule, part, begin + i * kVector<Real>);
  for (std::int64_t i = begin + vectors * kVector<Real> + threadIdx.x; i < end; i += kSweepThreads)
    step_element(rule, part, i);
}

// Each of kLanes threads adds up one lane of a block of the sums; then they exchange their lanes
// and all add them in their order.
template <class Update, int kStates, int kSquares, class Real>
__global__ void __launch_bounds__(kSumThreads, kResidentWithSums) sum_blocks(Launch launch) {
  if (is_skipped(launch)) return;
  const std::uint32_t k = launch.chunks[blockIdx.x];
  const DeviceTask& task = launch.tasks[k];
  const Update rule = coefficients<Update>(launch, k);
  const Part<2 + kStates, Real> part(launch, task);
  constexpr std::int64_t kBlocks = kSumThreads / kLanes;  // of one thread block
  const std::int64_t block = (blockIdx.x - task.first_sum_chunk) * kBlocks + threadIdx.x / kLanes;
  const std::int64_t begin = block * kSumBlock<Real>;
  const std::int64_t end =
      begin + kSumBlock<Real> < task.size ? begin + kSumBlock<Real> : task.size;
  double sums[kSquares] = {};
  for (std::int64_t i = begin + threadIdx.x % kLanes; i < end; i += kLanes) {
    const Offsets<2 + kStates> offsets(part, i);
    Element<2 + kStates, Real> element(part, offsets);  // a scaled gradient is written in the sweep
    Real terms[kSquares];
    rule.measure(element.param, part.sign * element.grad, element.states, terms);
    ONEPASS_UNROLL
    for (int s = 0; s < kSquares; ++s) {
      const double term = terms[s];
      sums[s] += term * term;
    }
  }
  const int first_lane = static_cast<int>(threadIdx.x % kWarp / kLanes * kLanes);
  for (int s = 0; s < kSquares; ++s) {
    double sum = 0.0;
    for (int lane = 0; lane < kLanes; ++lane)
      sum += __shfl_sync(0xffffffffu, sums[s], first_lane + lane);
    if (threadIdx.x % kLanes == 0 && begin < task.size)
      launch.block_sums[(task.first_block + block) * kMaxSquares + s] = sum;
  }
}

// One thread block a parameter: adds the blocks' sums and completes the coefficients.
template <class Rule, unsigned kVariantBits, int kSquares, class Real>
__global__ void __launch_bounds__(kFolds) finish(Launch launch) {
  using Update = typename Rule::template Update<Real, kVariantBits>;
  __shared__ double folds[kFolds];
  if (is_skipped(launch)) return;
  const std::int64_t k = blockIdx.x;
  const DeviceTask& task = launch.tasks[k];
  double squares[kSquares];
  for (int s = 0; s < kSquares; ++s) {
    double sum = 0.0;
    for (std::int64_t block = threadIdx.x; block < sum_blocks_of<Real>(task.size); block += kFolds)
      sum += launch.block_sums[(task.first_block + block) * kMaxSquares + s];
    __syncthreads();  // thread 0 may still be reading the sum before
    folds[threadIdx.x] = sum;
    for (int width = kFolds / 2; width > 0; width /= 2) {
      __syncthreads();
      if (threadIdx.x < width) folds[threadIdx.x] += folds[threadIdx.x + width];
    }
    squares[s] = folds[0];  // thread 0's own
  }
  if (threadIdx.x != 0) return;
  constexpr int kNumbers = std::size(Rule::kNumbers);
  StateNumber numbers[kMaxNumbers];
  read_numbers(task, kNumbers, numbers);
  coefficients<Update>(launch, k).finish(squares, static_cast<double>(task.size), numbers);
  write_numbers(task, kNumbers, numbers);
}

}  // namespace onepass::cuda
