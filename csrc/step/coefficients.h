// The coefficients of a step's rules, in double from hyper-parameters and step counts.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "../sweep/task.h"
#include "entry.h"
#include "group.h"

namespace onepass {

// Nearly always the parameters of a group have taken the same number of steps, and then they share
// their coefficients; and many a group is like the one before.
class StepCoefficients {
 public:
  // Allocates for so many parameters; nothing is allocated from here on.
  void prepare(std::size_t count) { made_.reserve(count); }
  void clear() {
    made_.clear();
    key_ = {};
  }
  // The coefficients of a parameter in step number `step`, and its numbers after it. With `own`
  // they are shared with no other parameter.
  Coefficients& of(const Entry& entry, const Group& group, double step, Format arithmetic,
                   bool own);

 private:
  // What the coefficients made last belong to.
  struct Key {
    const Group* group = nullptr;
    double step = 0.0;
    Format arithmetic = {};
    std::array<StateNumber, kMaxNumbers> numbers = {};
  };

  bool serves(const Key& key) const;

  Key key_;
  std::array<StateNumber, kMaxNumbers> next_numbers_ = {};  // after the step that key_ belongs to
  std::vector<Coefficients> made_;
};

// Gives coefficients the sums over their parameter that they wait for.
void finish(const Entry& entry, const Group& group, const Task& task, const double* sums);

}  // namespace onepass
