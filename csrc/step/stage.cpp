// Plan::stage: all memory that the rest of a step needs. The last that may fail.
#include "plan.h"

namespace onepass {

void Plan::stage() {
  TORCH_INTERNAL_ASSERT(memory_.new_decay_logs.empty(), "the step was not planned anew");
  const auto sharing = overlap_.is_found() ? cuda::Sharing::kSome : cuda::Sharing::kNone;
  if (on_devices_ > 0) devices_.stage(entries_, tasks_, groups_, scaler_, sharing);
  coefficients_.prepare(entries_.size());
  if (sums_) squares_.prepare(tasks_);
  if (needs_grad_norm_) {
    gradient_squares_.prepare(tasks_);
    task_squares_.reserve(tasks_.size());
  }
}

// Other threads may let go of tensors or give them other memory. What is held is the memory that
// the tasks point to.
void Plan::hold() {
  for (std::size_t k = 0; k < entries_.size(); ++k) {
    const Tensors& tensors = entries_[k].tensors;
    const Group& group = group_of(k);
    memory_.held.push_back(tensors.param->storage());
    memory_.held.push_back(tensors.grad->storage());
    for (int state = 0; state < group.state_count; ++state) {
      memory_.held.push_back(tensors.states[state]->storage());
      if (const auto* const exponents = tensors.exponents_of(state))
        memory_.held.push_back(exponents->storage());
    }
    for (std::size_t n = 0; n < group.algorithm->numbers.size(); ++n)
      memory_.held.push_back(tensors.numbers[n]->storage());
  }
}

}  // namespace onepass
