// Goes through the table of algorithms and prints, for each variant of each algorithm in each mix
// of stored types and layouts, a digest of all bits that it computes. tests/test_portable.py
// compiles it for two architectures and holds the lines of one against those of the other.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "parameter.h"
#include "rules/math.h"
#include "sweep/instruction_sets.h"

namespace onepass {
namespace {

constexpr Scene kScenes[] = {
    {.first_step = 1, .beta = 0.3},
    {.first_step = 1000, .beta = 0.6, .has_decay = true},
    {.first_step = 7, .beta = 0.9, .has_flags = true, .has_decay = true, .maximize = true},
    {.first_step = 1, .beta = 0.8, .has_flags = true, .maximize = true, .is_extreme = true},
    {.first_step = 40, .beta = 0.2, .has_decay = true, .is_extreme = true},
};

// The mixes that are swept in place, and enough others for each type to be each operand's.
std::vector<Mix> mixes() {
  using enum Format;
  using enum Layout;
  std::vector<Mix> mixes;
  for (const auto& [param, grad, states] : kMixes) mixes.push_back({param, grad, states, kPlain});
  mixes.insert(mixes.end(), {{kFloat16, kFloat16, kFloat16, kPlain},
                             {kFloat32, kFloat32, kFloat32, kStrided},
                             {kBFloat16, kFloat16, kFloat32, kStrided},
                             {kFloat32, kFloat64, kBFloat16, kStrided},
                             {kFloat32, kFloat32, kFloat32, kRows},
                             {kFloat16, kBFloat16, kFloat64, kRows},
                             {kBFloat16, kBFloat16, kBFloat16, kScaled},
                             {kFloat16, kFloat16, kFloat32, kScaled},
                             {kFloat64, kFloat32, kFloat16, kScaled},
                             {kBFloat16, kBFloat16, kBFloat16, kStochastic},
                             {kFloat16, kFloat32, kFloat16, kStochastic},
                             {kFloat32, kFloat32, kInt8, kBlocks},
                             {kFloat64, kBFloat16, kInt8, kBlocks}});
  return mixes;
}

std::vector<std::int64_t> sizes_of(Layout layout) {
  if (layout == Layout::kStrided) return {kStridedSize};
  if (layout == Layout::kRows) return {std::ssize(kSparseRows) * kRowSize};
  return {1, 7, 1061};  // tails of a vector, and of a tile
}

void take_steps(Parameter& parameter, const Scene& scene, Digest& digest) {
  std::uint64_t seed = 0;
  parameter.param().fill(RandomNumbers{seed++, scene.is_extreme, true});
  for (Memory& state : parameter.states())  // some of which are never under zero
    state.fill(RandomNumbers{seed++, scene.is_extreme, false});
  for (int k = 0; k < 3; ++k) {
    parameter.grad().fill(RandomNumbers{seed++, scene.is_extreme, true});
    parameter.take_step(scene.first_step + k);
    parameter.add_to(digest);
  }
}

void print_subject(const Subject& subject) {
  const bool has_sums = subject.variant().sums != nullptr;
  const bool takes_rows = subject.algorithm.no_sparse == nullptr && !has_sums;
  for (const Mix& mix : mixes()) {
    if (mix.layout == Layout::kRows && !takes_rows) continue;
    Digest digest;
    for (const Scene& scene : kScenes)
      for (const std::int64_t size : sizes_of(mix.layout)) {
        Parameter parameter(subject, mix, scene, size);
        take_steps(parameter, scene, digest);
      }
    digest.print(subject.text() + ", " + mix.text());
  }
  if (!has_sums) return;
  constexpr std::int64_t kLong = kFolds * kSumBlock<float> + 40'000;  // some sums are of two blocks
  const Mix mix{Format::kFloat32, Format::kFloat32, Format::kFloat32, Layout::kPlain};
  Parameter parameter(subject, mix, kScenes[0], kLong);
  Digest digest;
  take_steps(parameter, kScenes[0], digest);
  digest.print(subject.text() + ", long");
}

void print_algorithm(const Algorithm& algorithm) {
  for (unsigned present = 0; present < std::size(algorithm.variants); ++present)
    if (algorithm.variants[present].loop != nullptr) print_subject({algorithm, present});
  if (algorithm.kept_without_gradient == nullptr) return;
  Digest digest;
  for (const Scene& scene : kScenes)
    digest.add(algorithm.kept_without_gradient(scene.hypers(algorithm, 1.0).data()));
  digest.print(std::string(algorithm.name) + ", kept without gradient");
}

void print_power() {
  constexpr double kBases[] = {0.0,   0x1p-1074,   0.1, 0.5,         0.9, 0.96,
                               0.999, 1 - 0x1p-53, 1.0, 1 + 0x1p-52, 1.5, 1e300};
  constexpr double kExponents[] = {0.0,      0x1p-1074, 0.004,     0.25,   0.75,    1.0,  2.0,
                                   7.5,      1000.0,    1000000.1, 0x1p24, 0x1p53,  1e18, 0x1p63,
                                   0x1.8p63, 0x1p64,    1e20,      1e300,  INFINITY};
  Digest digest;
  for (const double base : kBases)
    for (const double exponent : kExponents) digest.add(power(base, exponent));
  digest.print("power");
}

// The first of corrected averages is a copy, which makes the average's type of the value's.
void print_conversions() {
  constexpr Format kFloats[] = {Format::kFloat32, Format::kFloat64, Format::kBFloat16, Format::kFloat16};
  constexpr Scene kFirst{.first_step = 1, .beta = 0.9, .has_flags = true};
  for (const Format from : kFloats)
    for (const Format to : kFloats) {
      const Subject ema{*find_algorithm("ema"), 0};
      Parameter average(ema, {to, from, to, Layout::kPlain}, kFirst, EveryNumber::kSize);
      average.grad().fill(EveryNumber{});
      average.take_step(1.0);
      Digest digest;
      average.add_to(digest);
      digest.print(std::string("conversion, ") + name_of(from) + " to " + name_of(to));
    }
}

}  // namespace
}  // namespace onepass

// The argument is the instruction set whose loops are run; without it the widest of the machine.
int main(int argc, char** argv) {
  using namespace onepass;
  if (argc > 1) {
    const auto* const found = std::ranges::find(kInstructionSets, std::string_view(argv[1]));
    const auto index = static_cast<int>(found - std::begin(kInstructionSets));
    if (index > widest_instruction_set()) {
      std::fprintf(stderr, "this machine has no instruction set '%s'\n", argv[1]);
      return 1;
    }
    set_instruction_set(index);
  }
  for (const Algorithm& algorithm : algorithms()) print_algorithm(algorithm);
  print_power();
  print_conversions();
}
