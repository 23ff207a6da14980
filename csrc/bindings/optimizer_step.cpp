#include "optimizer_step.h"

#include <ATen/record_function.h>

#include <algorithm>
#include <string>
#include <utility>

namespace onepass {

namespace {

constexpr const char* kBusy =
    "this optimizer is in the middle of a step in another thread; give every thread its own "
    "optimizer or take a lock around step()";

}  // namespace

// The time in which an optimizer is in use by one call about all its parameters. Ends with all
// tensors let go.
class OptimizerStep::Session {
 public:
  explicit Session(OptimizerStep& owner) : owner_(owner) {
    TORCH_CHECK(!owner.busy_ && owner.stepping_.empty(), kBusy);
    owner.busy_ = true;
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() {
    owner_.call_.end();
    owner_.busy_ = false;
  }

 private:
  OptimizerStep& owner_;
};

// The time in which one of its parameters is stepped by itself, with a call that nobody else uses.
class OptimizerStep::SingleParamSession {
 public:
  SingleParamSession(OptimizerStep& owner, PyObject* param) : owner_(owner) {
    TORCH_CHECK(!owner.busy_, kBusy);
    for (const auto& [other, call] : owner.stepping_)
      TORCH_CHECK(other != param, "this parameter is in the middle of a step in another thread; ",
                  "step it once for each gradient");
    std::unique_ptr<Call> call;
    if (owner.idle_.empty()) {
      call = std::make_unique<Call>(owner.algorithm_, owner.shared_);
    } else {
      call = std::move(owner.idle_.back());
      owner.idle_.pop_back();
    }
    call_ = call.get();
    owner.idle_.reserve(owner.idle_.size() + owner.stepping_.size() + 1);  // for when they end
    owner.stepping_.emplace_back(param, std::move(call));
  }
  SingleParamSession(const SingleParamSession&) = delete;
  SingleParamSession& operator=(const SingleParamSession&) = delete;
  ~SingleParamSession() {
    call_->end();
    const auto found = std::ranges::find(owner_.stepping_, call_, get);
    owner_.idle_.push_back(std::move(found->second));
    owner_.stepping_.erase(found);
  }

  Call& call() const { return *call_; }
  // Threads that are sweeping have let go of the GIL.
  void check_memory() const {
    for (const auto& [other, call] : owner_.stepping_)
      TORCH_CHECK(call.get() == call_ || !call_->shares_memory(*call), "this parameter shares ",
                  "memory with one that is in the middle of a step in another thread; step one ",
                  "after the other");
  }

 private:
  static const Call* get(const std::pair<PyObject*, std::unique_ptr<Call>>& stepping) {
    return stepping.second.get();
  }

  OptimizerStep& owner_;
  Call* call_ = nullptr;
};

namespace {

const Algorithm& algorithm_called(const std::string& name) {
  const Algorithm* const found = find_algorithm(name);
  TORCH_CHECK_VALUE(found != nullptr, "onepass has no algorithm called '", name, "'");
  return *found;
}

}  // namespace

OptimizerStep::OptimizerStep(const std::string& algorithm_name)
    : algorithm_(algorithm_called(algorithm_name)), call_(algorithm_, shared_) {}

bool OptimizerStep::step(const py::list& groups, const py::dict& state,
                         const py::function& new_state, const py::object& grad_scale,
                         const py::object& found_inf, const py::list& averages) {
  const Session session(*this);
  if (!call_.read_scaler(grad_scale, found_inf)) return skip();
  NewEntries made;
  const Containers containers{groups.ptr(), state};
  if (!call_.prepare(containers, new_state, made)) return false;
  if (!call_.settle_scaler(containers)) return skip();
  AveragesOfStep moving;
  moving.stage(averages);
  carry_out(call_, containers, made, moving.all());
  return true;
}

bool OptimizerStep::step_one(const py::list& groups, const py::dict& state, const py::object& param,
                             const py::function& new_state) {
  const SingleParamSession session(*this, param.ptr());
  Call& call = session.call();
  NewEntries made;
  const Containers containers{groups.ptr(), state, param.ptr()};
  if (!call.prepare(containers, new_state, made)) return false;
  session.check_memory();
  carry_out(call, containers, made, {});
  return true;
}

// A gradient scaler skips the step, whose gradients nobody has looked at.
bool OptimizerStep::skip() {
  grad_norm_.reset();
  return true;
}

// Takes a step that was prepared, with the state that was made for it, unless its gradients forbid
// it.
void OptimizerStep::carry_out(Call& call, const Containers& containers, NewEntries& made,
                              std::span<Averages* const> averages) {
  RECORD_FUNCTION(std::string("onepass::") + algorithm_.name, {});
  const bool is_taken = call.stage(containers, averages);
  if (&call == &call_) grad_norm_ = call.grad_norm();
  if (!is_taken) return;
  made.keep();
  if (&call == &call_) ++steps_taken_;  // before what a device may fail at: the step is taken then
  call.take(averages);
}

std::pair<int, int> OptimizerStep::place_of(const py::list& groups, const py::dict& /*state*/,
                                            const py::object& param) {
  const ParamPlace& place = shared_.places.find(groups.ptr(), param.ptr());
  return {place.group, place.index};
}

std::optional<std::pair<double, bool>> OptimizerStep::grad_norm() const {
  if (!grad_norm_) return std::nullopt;
  return std::pair(grad_norm_->value, grad_norm_->type == Format::kFloat64);
}

bool OptimizerStep::skips(const py::object& found_inf) {
  return optional_number_of(found_inf.ptr(), {"found_inf", -1, OptionName::kScaler})
             .value_or(0.0) != 0.0;
}

bool OptimizerStep::rehearse(const py::list& groups, const py::dict& state,
                             const py::function& new_state) {
  const Session session(*this);
  NewEntries made;
  const bool is_ready = call_.prepare({groups.ptr(), state}, new_state, made);
  made.keep();
  return is_ready;
}

void OptimizerStep::check(const py::list& groups, const py::dict& state, int first_group) {
  const Session session(*this);
  call_.check({groups.ptr(), state}, first_group);
}

void OptimizerStep::check_arguments(const py::dict& arguments, bool ranges) {
  const Session session(*this);
  call_.check_arguments(arguments.ptr(), ranges);
}

}  // namespace onepass
