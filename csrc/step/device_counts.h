// The first steps of states that keep no count, where a device decides whether they are taken.
#pragma once

#include <ATen/core/Tensor.h>

#include <unordered_map>

namespace onepass {

// Of an algorithm that counts no steps, the counts of states that were new in a step that a device
// may have skipped: only there it is known which step is the first. By the state's address.
class DeviceCounts {
 public:
  bool empty() const { return counts_.empty(); }
  // The count of a state, or null.
  const at::Tensor* find(const at::Tensor& state) const;
  const at::Tensor* make(const at::Tensor& state);

 private:
  struct Count {
    c10::weak_intrusive_ptr<c10::TensorImpl> state;
    at::Tensor steps;
  };
  std::unordered_map<const c10::TensorImpl*, Count> counts_;
};

}  // namespace onepass
