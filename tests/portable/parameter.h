// One parameter and its steps, planned as csrc/step plans them, but without tensors.
#pragma once

#include <bit>
#include <string>
#include <string_view>
#include <vector>

#include "numbers.h"
#include "registry/algorithm.h"
#include "sweep/reduce.h"
#include "sweep/sweep.h"

namespace onepass {

enum class Layout { kPlain, kStrided, kRows, kScaled, kStochastic, kBlocks };

// The stored types of a parameter, its gradient and its states, and how they lie.
struct Mix {
  Format param, grad, states;
  Layout layout;

  std::string text() const {
    constexpr const char* kLayouts[] = {"", " strided", " rows", " scaled", " stochastic", " in blocks"};
    return std::string(name_of(param)) + " " + name_of(grad) + " " + name_of(states) +
           kLayouts[static_cast<int>(layout)];
  }
};

// An algorithm with some of its states present.
struct Subject {
  const Algorithm& algorithm;
  unsigned present;

  const Variant& variant() const { return algorithm.variants[present]; }

  int state_count() const { return std::popcount(present & ((1u << algorithm.states.size()) - 1)); }

  std::string text() const {
    std::string text = algorithm.name;
    unsigned bits = present;
    for (const State& state : algorithm.states) {
      if (state.only_if != nullptr && (bits & 1) != 0) text += std::string(" ") + state.only_if;
      bits >>= 1;
    }
    return bits == 0 ? text : text + " " + algorithm.hypers[algorithm.option].name;
  }
};

// Circumstances that make rules take one way or the other.
struct Scene {
  double first_step, beta;
  bool has_flags, has_decay, maximize, is_extreme;

  double hyper(const HyperInfo& hyper, int index, double step) const {
    const double different = 0.01 * (1 + index);
    if (std::string_view(hyper.key) == "step") return has_flags ? step : 0.0;
    if (std::string_view(hyper.key) == "weight_decay" && !has_decay) return 0.0;
    if (hyper.range == Range::kFlag) return has_flags ? 1.0 : 0.0;
    if (hyper.range == Range::kAboveOne) return 1.2;
    const bool is_rate = hyper.range == Range::kNonNegative || hyper.range == Range::kFinite;
    return is_rate ? different : beta + (1.0 - beta) * different;
  }

  // All of an algorithm.
  std::vector<double> hypers(const Algorithm& algorithm, double step) const {
    std::vector<double> numbers;
    numbers.reserve(algorithm.hypers.size());
    for (const HyperInfo& info : algorithm.hypers)
      numbers.push_back(hyper(info, static_cast<int>(numbers.size()), step));
    return numbers;
  }
};

// Strides in another order, with gaps, and with gaps between rows only.
inline constexpr std::int64_t kStridedSizes[] = {3, 5, 71};
inline constexpr std::int64_t kStridedSize = kStridedSizes[0] * kStridedSizes[1] * kStridedSizes[2];
inline constexpr std::int64_t kParamStrides[] = {1, 3, 15}, kParamExtent = kStridedSize;
inline constexpr std::int64_t kGradStrides[] = {740, 146, 2},
                              kGradExtent = kStridedSizes[0] * kGradStrides[0];
inline constexpr std::int64_t kStateStrides[] = {400, 80, 1},
                              kStateExtent = kStridedSizes[0] * kStateStrides[0];

// The rows of a table that a sparse gradient has values for, and what remains of each.
inline constexpr std::int64_t kRowSize = 53, kSparseRows[] = {0, 2, 3, 7, 19}, kTableRows = 20;
inline constexpr double kRowKeep[] = {1.0, 0.75, 1.0, 0.99, 0.1};

inline constexpr std::int64_t kBlockRow = 100;

class Parameter {
 public:
  Parameter(const Subject& subject, const Mix& mix, const Scene& scene, std::int64_t size)
      : subject_(subject), scene_(scene) {
    task_.size = size;
    task_.state_count = subject.state_count();
    transform_.sign = scene.maximize ? -1.0 : 1.0;
    // By a product with the reciprocal, and by a division.
    if (mix.layout == Layout::kScaled)
      transform_.scale = mix.param == Format::kFloat64 ? 3.0 : 65536.0;
    task_.transform = &transform_;
    if (mix.layout == Layout::kStrided) use_strides();
    if (mix.layout == Layout::kRows) use_rows();
    place_operands(mix);
    if (mix.layout == Layout::kBlocks) use_blocks();
    choose_loops(mix);
    if (mix.layout == Layout::kStochastic) round_randomly();
    for (const State& state : subject.algorithm.numbers)
      numbers_.push_back(
          {state.start_at != nullptr ? 0.05 : state.start, task_.arithmetic == Format::kFloat32});
  }

  Memory& param() { return operands_[0]; }
  Memory& grad() { return operands_[1]; }
  std::span<Memory> states() { return std::span(operands_).subspan(2); }

  void take_step(double step) {
    const Variant& variant = subject_.variant();
    const std::vector<double> hypers = scene_.hypers(subject_.algorithm, step);
    Coefficients coefficients{};
    variant.coefficients(hypers.data(), step, numbers_.data(), task_.arithmetic, coefficients);
    task_.update = &coefficients;
    task_.rounding_key = rounding_key(1, 2, step);
    if (variant.sums != nullptr) {
      SquareSums sums(Squares::kOfRule);
      sums.prepare({&task_, 1});
      sums.add_up({&task_, 1}, 0, 1);
      std::copy_n(sums.of(0), kMaxSquares, squares_);
      variant.finish(squares_, static_cast<double>(task_.size), numbers_.data(), task_.arithmetic,
                     coefficients);
    }
    sweep({&task_, 1}, {&task_.size, 1});
  }

  void add_to(Digest& digest) {
    for (Memory& operand : operands_) operand.add_to(digest);
    for (const auto& of_state : exponents_)
      for (const std::int8_t exponent : of_state)
        digest.add_byte(static_cast<unsigned char>(exponent));
    for (const StateNumber& number : numbers_) digest.add(number.value);
    for (const double sum : squares_) digest.add(sum);
  }

 private:
  void use_strides() {
    task_.sizes = kStridedSizes;
    task_.dims = std::size(kStridedSizes);
    task_.param.strides = kParamStrides;
    task_.grad.strides = kGradStrides;
    for (Operand& state : task_.states) state.strides = kStateStrides;
  }

  void round_randomly() {
    task_.param.rounding = Rounding::kOfWeight;
    for (int k = 0; k < task_.state_count; ++k)
      task_.states[k].rounding = k % 2 == 0 ? Rounding::kOfState : Rounding::kOfSecondState;
  }

  // States from 0 on, as codes in rows of a block and a short one.
  void use_blocks() {
    constexpr Rounding kRoundings[] = {Rounding::kOfState, Rounding::kOfSecondState,
                                       Rounding::kOfThirdState, Rounding::kOfFourthState};
    task_.blocks = {kBlockRow};
    for (int k = 0; k < task_.state_count; ++k) {
      Operand& state = task_.states[k];
      const auto blocks = static_cast<std::size_t>(task_.size / kBlockRow + 1) * 2;
      state.exponents = exponents_.emplace_back(blocks, std::int8_t{-126}).data();
      state.rounding = kRoundings[k];
      if (k % 2 == 1) state.type = Format::kUInt8;
    }
  }

  void use_rows() {
    task_.row_size = kRowSize;
    task_.rows = kSparseRows;
    task_.row_keep = kRowKeep;
  }

  void place_operands(const Mix& mix) {
    std::int64_t param = task_.size, grad = task_.size, state = task_.size;
    if (mix.layout == Layout::kRows) param = state = kTableRows * kRowSize;
    if (mix.layout == Layout::kStrided) {
      param = kParamExtent;
      grad = kGradExtent;
      state = kStateExtent;
    }
    place(task_.param, mix.param, param);
    place(task_.grad, mix.grad, grad);
    for (int k = 0; k < task_.state_count; ++k) place(task_.states[k], mix.states, state);
  }

  void place(Operand& operand, Format type, std::int64_t size) {
    operand.data = operands_.emplace_back(type, size).data();
    operand.type = type;
    if (type == Format::kFloat64) task_.arithmetic = Format::kFloat64;
  }

  void choose_loops(const Mix& mix) {
    const Variant& variant = subject_.variant();
    const bool is_double = task_.arithmetic == Format::kFloat64;
    task_.tiled = variant.loop(is_double ? kMixFloat64 : kMixFloat32);
    if (variant.sums != nullptr) task_.sums = variant.sums(task_.arithmetic);
    if (mix.layout == Layout::kStrided || mix.layout == Layout::kStochastic ||
        mix.layout == Layout::kBlocks)
      return;
    for (int k = 0; k < kMixCount; ++k)
      if (mix.param == kMixes[k].param && mix.grad == kMixes[k].grad &&
          (task_.state_count == 0 || mix.states == kMixes[k].states))
        task_.in_place = variant.loop(k);
  }

  const Subject& subject_;
  const Scene& scene_;
  GradTransform transform_;
  Task task_{};
  std::vector<Memory> operands_;
  std::vector<std::vector<std::int8_t>> exponents_;  // by state
  std::vector<StateNumber> numbers_;
  double squares_[kMaxSquares] = {};
};

}  // namespace onepass
