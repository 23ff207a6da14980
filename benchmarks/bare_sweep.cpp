// A step's bytes without its arithmetic: the limit that a sweep is held against.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "sweep/instruction_sets.h"
#include "sweep/sweep.h"

namespace onepass {
namespace {

// As few instructions as read every operand and write all but the gradient. Copies from one to the
// next would not do: what is overwritten would not be read.
template <int kStates>
ONEPASS_FN void touch(const LoopArgs& args) {
  auto* const param = static_cast<std::uint32_t*>(args.param);
  const auto* const grad = static_cast<const std::uint32_t*>(args.grad);
  std::uint32_t* states[kMaxStates];
  for (int k = 0; k < kStates; ++k) states[k] = static_cast<std::uint32_t*>(args.states[k]);
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < args.size; ++i) {
    const std::uint32_t bits = grad[i];
    param[i] ^= bits;
    for (int k = 0; k < kStates; ++k) states[k][i] ^= bits;
  }
}

template <int... kStates>
Loop touch_of(int states, std::integer_sequence<int, kStates...> /*all*/) {
  const Loop loops[] = {PerInstructionSet<&touch<kStates>>::table[widest_instruction_set()]...};
  return loops[states];
}

}  // namespace
}  // namespace onepass

// Of a parameter, its gradient and so many states of float32, each of `size` elements.
extern "C" void bare_sweep(std::uint32_t* const* operands, int states, std::int64_t size,
                           int threads) {
  using namespace onepass;
  const Loop loop = touch_of(states, std::make_integer_sequence<int, kMaxStates + 1>{});
  const std::int64_t parts = std::clamp<std::int64_t>(size / (kParallelThreshold / 2), 1, threads);
  const std::int64_t length = (size + parts - 1) / parts;
#pragma omp parallel for num_threads(parts) if (parts > 1)
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t begin = part * length;
    LoopArgs args{};
    args.param = operands[0] + begin;
    args.grad = operands[1] + begin;
    for (int k = 0; k < states; ++k) args.states[k] = operands[2 + k] + begin;
    args.size = std::min(length, size - begin);
    loop(args);
  }
}
