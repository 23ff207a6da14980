// The plan of one step: everything it will touch, validated. Nothing is written before commit().
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "../launch/device.h"
#include "../sweep/reduce.h"
#include "../sweep/sweep.h"
#include "coefficients.h"
#include "devices.h"
#include "entry.h"
#include "group.h"
#include "overlap.h"
#include "task.h"

namespace onepass {

// Which tasks of a plan are swept with those of another.
struct Leading {
  static constexpr std::size_t kNone = -1;
  std::vector<std::size_t> leaders;  // by task: the other plan's task that leads it, as found last
  std::size_t leader_count = 0;      // how many tasks the other plan had then
  std::vector<bool> is_led;          // in this step
  std::vector<Task> rest;            // those that are not
  std::vector<std::int64_t> rest_ends;  // where each of these ends, laid end to end
  bool has_followers = false;           // tasks of this plan lead others
  bool has_leader = false;              // tasks of this plan are led
};

// The norm of all gradients of a step, and the type of what it was computed from.
struct GradNorm {
  double value;
  Format type;
};

// The order of calls is begin, add for each parameter, close, stage, measure, commit and sweep.
// From commit() on nothing fails, allocates or runs Python code, so that no step is taken by half.
//
// Between steps a plan keeps addresses, and what it concluded from them. It looks every tensor up
// anew in every step; where all it finds about a parameter is as before, so is the conclusion.
class Plan {
 public:
  // `first_group`: which of the optimizer's groups the first of these is.
  void begin(std::span<const Group> groups, const Scaler& scaler = {}, int first_group = 0);
  // Validates a parameter with its tensors, borrowed until clear(), and adds it. Without a gradient
  // it is validated and that is all.
  void add(const Tensors& tensors, const Subject& subject);
  // Ends the adding: looks for memory that parameters share.
  void close();
  // Allocates what the phases after it need, and copies to devices what their kernels read. Nothing
  // after it can fail but a device.
  void stage();
  // Computes the norm of all gradients, if a group asks for it, and what clips them to it. Returns
  // false where the step is not to be taken.
  bool measure();
  // Counts the steps, bumps the version counters, computes the coefficients.
  void commit();
  // Lets tasks of another plan that read what tasks of this one write be swept with them; the
  // others of its tasks are left to its own sweep(), which comes after that of this plan. Both are
  // staged.
  void lead(Plan& other);
  // Sums over parameters where coefficients wait for it, then sweeps all tasks but those that
  // another plan leads; those on devices without waiting for them.
  void sweep();
  // Holds all memory until clear(), for a sweep during which others run; before commit().
  void hold();
  // Forgets all tensors and keeps the vectors' memory for the next step.
  void clear();

  // What measure() found, if anything asked for it.
  const std::optional<GradNorm>& grad_norm() const { return grad_norm_; }

  // The logs that states lack: where there are any after close(), the step has to be planned anew
  // with them.
  const std::deque<NewDecayLog>& new_decay_logs() const { return memory_.new_decay_logs; }

  // Whether the step is so large that other threads may run during sweep(). Then hold() keeps its
  // memory until clear(), whatever they let go of.
  bool lets_others_run() const { return elements() > kReleaseThreshold; }
  // Whether one of two closed plans writes what the other reads or writes.
  bool shares_memory(const Plan& other) const { return share_memory(origins_, other.origins_); }
  // Whether some parameter with a gradient is on the CPU.
  bool steps_on_cpu() const { return on_devices_ < entries_.size(); }

 private:
  // How many parameters ahead the headers of tensors are asked for, and then what they lead to.
  static constexpr std::size_t kHeadersAhead = 8, kPartsAhead = 4;

  const Group& group_of(std::size_t k) const { return groups_[entries_[k].group]; }
  std::int64_t elements() const { return ends_.empty() ? 0 : ends_.back(); }  // on the CPU
  bool reuse_task(std::size_t k, const ByteRanges& ranges);
  void make_task(std::size_t k, const ByteRanges& ranges, bool usual);
  SweepOrder order_of(const Entry& entry, bool usual) const;
  double count_step_of(const Entry& entry) const;
  void bump_versions(std::size_t k) const;
  void note_caught_up(std::size_t k);
  void catch_up_rows(std::size_t first, std::size_t last);
  void reduce(std::size_t first, std::size_t last);
  void sweep_rest();
  bool leads(std::size_t k, const Plan& other, std::size_t j) const;
  void match(const Plan& other);

  // What tasks depend on beside their parameters.
  struct TaskContext {
    bool scaled = false;           // scaled gradients are written
    bool needs_grad_norm = false;  // gradients are summed over by index
    int instruction_set = -1;
    cuda::Emulation emulation = {};
    std::vector<GroupKind> kinds;
  };

  Scaler scaler_;
  TaskContext context_;
  std::span<const Group> groups_;
  int first_group_ = 0;
  std::vector<GradTransform> transforms_;  // by group
  std::vector<double> task_squares_;       // of gradients, by entry
  std::vector<Entry> entries_;
  std::vector<Task> tasks_;          // by entry, and kept between steps
  std::vector<TaskOrigin> origins_;  // what each was made from
  std::vector<std::int64_t> ends_;   // where each ends, laid end to end
  std::size_t on_devices_ = 0;       // how many of entries_
  bool sums_ = false;                // some group's coefficients wait for sums
  bool needs_grad_norm_ = false;     // some group asks for the norm of all gradients
  std::optional<GradNorm> grad_norm_;
  bool catches_up_ = false;  // some parameter with a dense gradient has rows that missed decay
  Overlap overlap_;
  Leading leading_;
  StepCoefficients coefficients_;
  SquareSums squares_{Squares::kOfRule}, gradient_squares_{Squares::kOfGradient};
  DevicePlans devices_;
  StepMemory memory_;
};

}  // namespace onepass
