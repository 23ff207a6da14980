// Averages of weights that move in the sweep of a step.
#pragma once

#include <span>
#include <vector>

#include "../step/plan.h"
#include "pyobject.h"

namespace onepass {

// One EMA of Python's: a plan of its rule (csrc/rules/ema.h), which keeps between steps what it
// concluded from addresses.
class Averages {
 public:
  Averages();

  // Validates the averages and the weights that they move towards, lists of tensors; borrows them
  // until end(). `names` are for error messages. `step` is the update's number where the average is
  // corrected, else 0.
  void prepare(const py::list& averages, const py::list& weights, const py::list& names,
               double beta, double step);
  Plan& plan() { return plan_; }
  void end() { plan_.clear(); }

 private:
  Group group_;
  Plan plan_;
  Tensors tensors_;  // of one average; to clear all of it for each takes long
};

// Those of one step, which end with it.
class AveragesOfStep {
 public:
  AveragesOfStep() = default;
  AveragesOfStep(const AveragesOfStep&) = delete;
  AveragesOfStep& operator=(const AveragesOfStep&) = delete;
  ~AveragesOfStep() {
    for (Averages* const one : all_) one->end();
  }

  // Validates all and allocates what they need. `given`: tuples of an Averages and the arguments of
  // its prepare().
  void stage(const py::list& given);
  std::span<Averages* const> all() const { return all_; }

 private:
  std::vector<Averages*> all_;
};

}  // namespace onepass
