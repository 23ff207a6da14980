#include "step_count.h"

#include <c10/util/Exception.h>

#include <cmath>

#include "../cuda/kernels.h"
#include "../launch/device.h"

namespace onepass {
namespace {

// Calls visit with a reference to the number in a tensor with one element.
template <class Visit>
double with_number(const at::TensorBase& tensor, const Visit& visit) {
  void* const data = tensor.mutable_data_ptr();
  if (tensor.scalar_type() == at::kFloat) return visit(*static_cast<float*>(data));
  if (tensor.scalar_type() == at::kDouble) return visit(*static_cast<double*>(data));
  return visit(*static_cast<std::int64_t*>(data));
}

// Raises unless the tensor holds one number, which may be written.
void check_one_number(const at::TensorBase& tensor, const Subject& subject) {
  TORCH_CHECK(tensor.defined() && is_plain(tensor) && !tensor.is_meta() && tensor.numel() == 1,
              subject.text(), " must be a tensor with one element on the CPU",
              !cuda::all_kernels().empty() ? " or beside the parameter" : "");
  check_writable(tensor, subject);
  byte_range_of(tensor, Access::kWrite, subject);
}

}  // namespace

void check_step(const at::TensorBase& step, const at::TensorBase& param, const Subject& subject) {
  check_one_number(step, subject);
  const at::ScalarType type = step.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kDouble || type == at::kLong, subject.text(),
              " has dtype ", type, "; it must be float32, float64 or int64");
  TORCH_CHECK(step.is_cpu() || step.device() == param.device(), subject.text(), " is on ",
              step.device(), ", but the parameter is on ", param.device(), "; move it there");
  if (cuda::number_on_device(step)) return;
  const double value = with_number(step, [](auto& steps) { return static_cast<double>(steps); });
  constexpr double kLargest = 9007199254740992.0;  // 2^53: from here on doubles skip numbers
  TORCH_CHECK_VALUE(value >= 0.0 && value < kLargest && value == std::floor(value), subject.text(),
                    " is ", value, ", but must be a whole number from 0 up: the steps so far");
}

double next_count(const at::TensorBase& step) {
  return with_number(step, [](auto& steps) {
    auto next = steps;
    return static_cast<double>(next += 1);
  });
}

double count_step(const at::TensorBase& step) {
  return with_number(step, [](auto& steps) { return static_cast<double>(steps += 1); });
}

void check_number(const at::TensorBase& number, const at::TensorBase& param,
                  const Subject& subject) {
  check_one_number(number, subject);
  const at::ScalarType type = number.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kDouble, subject.text(), " has dtype ", type,
              "; it must be float32 or float64");
  const c10::Device device = param.is_cuda() ? param.device() : c10::Device(c10::kCPU);
  TORCH_CHECK(number.device() == device, subject.text(), " is on ", number.device(),
              ", but must be on ", device, " with the parameter; move it there");
  if (cuda::on_device(number)) return;
  const double value = memory_of_number(number).read().value;
  TORCH_CHECK_VALUE(std::isfinite(value), subject.text(), " is ", value, ", but must be finite");
}

StateNumberMemory memory_of_number(const at::TensorBase& number) {
  return {number.mutable_data_ptr(), number.scalar_type() == at::kFloat};
}

}  // namespace onepass
