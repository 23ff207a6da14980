// From a rule to a row of the table of kernels.
#pragma once

#include "../rules/variants.h"
#include "kernels.cuh"
#include "kernels.h"

namespace onepass::cuda {

template <class Rule, unsigned kPresent, class Real>
Kernels kernels_of() {
  using Update = typename Rule::template Update<Real, kPresent>;
  static_assert(sizeof(Update) <= kCoefficientBytes);
  constexpr int kStates = states_of<Rule, kPresent>();
  constexpr int kSquares = Rule::squares(kPresent);
  Kernels kernels;
  kernels.prepare = [](const Launch& launch, std::int64_t blocks, void* stream) {
    ONEPASS_LAUNCH((prepare<Rule, kPresent, Real>), blocks, kWarp, stream, launch);
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
      ONEPASS_LAUNCH((finish<Rule, kPresent, kSquares, Real>), blocks, kFolds, stream, launch);
    };
  }
  return kernels;
}

template <class Rule>
Row row_of() {
  Row row{Rule::kName};
  for_each_variant<Rule>([&]<unsigned kPresent>(Present<kPresent>) {
    row.variants[kPresent][0] = kernels_of<Rule, kPresent, float>();
    row.variants[kPresent][1] = kernels_of<Rule, kPresent, double>();
  });
  return row;
}

template <int part>
std::vector<Row> rows_of() {
  std::vector<Row> rows;
  for_each_rule<part>([&rows]<class Rule>(RuleType<Rule>) { rows.push_back(row_of<Rule>()); });
  return rows;
}

}  // namespace onepass::cuda
