// Everything about one parameter is looked at before anything is written.
#pragma once

#include "entry.h"
#include "group.h"

namespace onepass {

// Checks one parameter. All raise errors that name the tensor and what to do.
class Validation {
 public:
  Validation(const Group& group, const Scaler& scaler, const Subject& subject, StepMemory& memory)
      : group_(group), scaler_(scaler), subject_(subject), memory_(memory) {}

  // Raises for options that are done on the CPU alone. `needs_grad_norm`: some group's step does.
  void check_offered_on_devices(const Tensors& tensors, bool needs_grad_norm) const;
  // Checks what is one number a parameter: its step count, its numbers, its log of decay.
  void check_numbers(Entry& entry) const;
  // Whether all operands are what they nearly always are, of one type and shape and contiguous, and
  // if so where they lie.
  bool take_fast_path(const Tensors& tensors, ByteRanges& ranges) const;
  // Checks any operands and returns where they lie. Gradients that are sparse or lazy are replaced
  // by what the sweep reads.
  ByteRanges check_operands(Entry& entry) const;
  // Raises if two of a parameter's tensors have an element in common: the loops take them for
  // independent.
  void check_separate(const Tensors& tensors, const ByteRanges& ranges) const;

 private:
  void check_step_count(const Entry& entry) const;
  bool locate_codes(const FastPathCheck& check, const Tensors& tensors, ByteRanges& ranges) const;
  void check_states(const Tensors& tensors, ByteRanges& ranges) const;
  ByteRange check_gradient(Entry& entry, const Subject& subject) const;
  void take_sparse_gradient(Entry& entry, const Subject& subject) const;
  void want_decay_log(const Entry& entry, std::int64_t sparse_dim, const Subject& subject) const;
  void allot_keep(Entry& entry) const;

  const Group& group_;
  const Scaler& scaler_;
  const Subject& subject_;
  StepMemory& memory_;
};

}  // namespace onepass
