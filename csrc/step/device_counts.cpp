#include "device_counts.h"

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <utility>

namespace onepass {

const at::Tensor* DeviceCounts::find(const at::Tensor& state) const {
  const auto found = counts_.find(state.unsafeGetTensorImpl());
  return found != counts_.end() && !found->second.state.expired() ? &found->second.steps : nullptr;
}

const at::Tensor* DeviceCounts::make(const at::Tensor& state) {
  const c10::InferenceMode outside(false);
  Count count{c10::weak_intrusive_ptr<c10::TensorImpl>(state.getIntrusivePtr()),
              at::zeros({}, state.options().dtype(at::kFloat))};
  return &counts_.insert_or_assign(state.unsafeGetTensorImpl(), std::move(count))
              .first->second.steps;
}

}  // namespace onepass
