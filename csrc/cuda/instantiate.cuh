// From a rule to its kernels.
#pragma once

#include "../rules/variants.h"
#include "kernels.cuh"
#include "kernels.h"

namespace onepass::cuda {

template <class Rule, unsigned kVariantBits, class Real>
Kernels kernels_of() {
  using Update = typename Rule::template Update<Real, kVariantBits>;
  static_assert(sizeof(Update) <= kCoefficientBytes);
  constexpr int kStates = states_of<Rule, kVariantBits>();
  constexpr int kSquares = Rule::squares(kVariantBits);
  Kernels kernels;
  kernels.prepare = [](const Launch& launch, std::int64_t blocks, void* stream) {
    ONEPASS_LAUNCH((prepare<Rule, kVariantBits, Real>), blocks, kWarp, stream, launch);
  };
  kernels.sweep = [](const Launch& launch, std::int64_t blocks, void* stream) {
    ONEPASS_LAUNCH((sweep<Update, kStates, Real>), blocks, kSweepThreads, stream, launch);
  };
  if constexpr (kSquares > 0) {
    kernels.sum_blocks = [](const Launch& launch, std::int64_t blocks, void* stream) {
      ONEPASS_LAUNCH((sum_blocks<Update, kStates, kSquares, Real>), blocks, kSumThreads, stream,
                     launch);
    };
    kernels.finish = [](const Launch& launch, std::int64_t blocks, void* stream) {
      ONEPASS_LAUNCH((finish<Rule, kVariantBits, kSquares, Real>), blocks, kFolds, stream, launch);
    };
  }
  return kernels;
}

template <class Family>
std::vector<RuleKernels> kernels_of_family() {
  std::vector<RuleKernels> kernels;
  for_each_rule(
      [&]<class Rule>(RuleType<Rule>) {
        RuleKernels& added = kernels.emplace_back(Rule::kName);
        for_each_variant<Rule>([&]<unsigned kVariantBits>(VariantBits<kVariantBits>) {
          added.variants[kVariantBits][0] = kernels_of<Rule, kVariantBits, float>();
          added.variants[kVariantBits][1] = kernels_of<Rule, kVariantBits, double>();
        });
      },
      Family{});
  return kernels;
}

}  // namespace onepass::cuda
