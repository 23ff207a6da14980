// A step as Python asks for it: reads param_groups and state of a torch.optim.Optimizer natively.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "call.h"

namespace onepass {

// One per optimizer.
class OptimizerStep {
 public:
  explicit OptimizerStep(const std::string& algorithm_name);

  // Takes one step. Returns false, with nothing done, where a tensor is of a class of its own, but
  // for DTensors that are placed alike.
  // `new_state(param, group)` makes the state of a parameter that has none yet. `averages` move
  // with the step (averages.h).
  bool step(const py::list& groups, const py::dict& state, const py::function& new_state,
            const py::object& grad_scale, const py::object& found_inf, const py::list& averages);

  // Steps one parameter as step() would, in a time that does not depend on how many there are.
  // Other threads may step other parameters meanwhile.
  bool step_one(const py::list& groups, const py::dict& state, const py::object& param,
                const py::function& new_state);

  // The group and the index of a parameter.
  std::pair<int, int> place_of(const py::list& groups, const py::dict& state,
                               const py::object& param);

  // The norm of all gradients in the last step that was not refused, where a group asked for it and
  // no scaler skipped it, and whether it was computed from float64.
  std::optional<std::pair<double, bool>> grad_norm() const;

  // How many steps were taken by step(); one that was refused or skipped does not count.
  std::int64_t steps_taken() const { return steps_taken_; }

  // Whether a step is skipped because the gradient scaler found an overflow.
  static bool skips(const py::object& found_inf);

  // Refuses what step() would refuse and makes the states that it would make, but takes no step.
  bool rehearse(const py::list& groups, const py::dict& state, const py::function& new_state);

  // Validates the groups from `first_group` on, and the state of all parameters that have one.
  void check(const py::list& groups, const py::dict& state, int first_group);

  // Refuses wrong types among a constructor's arguments, and with `ranges` what is out of range.
  void check_arguments(const py::dict& arguments, bool ranges);

 private:
  class Session;
  class SingleParamSession;

  bool skip();
  void carry_out(Call& call, const Containers& containers, NewEntries& made,
                 std::span<Averages* const> averages);

  const Algorithm& algorithm_;
  // The GIL guards these: who is in the middle of a call that is about all parameters, and of one
  // about a single one.
  bool busy_ = false;
  std::vector<std::pair<PyObject*, std::unique_ptr<Call>>> stepping_;
  std::vector<std::unique_ptr<Call>> idle_;
  std::int64_t steps_taken_ = 0;
  std::optional<GradNorm> grad_norm_;
  SharedByCalls shared_;
  Call call_;
};

}  // namespace onepass
