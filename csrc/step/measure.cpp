// Plan::measure: the norm of all gradients, which clips them or refuses the step. Nothing is
// written.
#include <algorithm>
#include <bit>
#include <cmath>

#include "plan.h"

namespace onepass {
namespace {

// In rising order, so that the sum does not depend on the order of the parameters. The bits of
// numbers that are not negative are ordered as these, and NaN is greater.
double sum_of(std::vector<double>& squares) {
  std::ranges::sort(squares, {},
                    [](double square) { return std::bit_cast<std::uint64_t>(square); });
  double sum = 0.0;
  for (const double square : squares) sum += square;
  return sum;
}

// As torch.nn.utils.clip_grad_norm_, whose summand spares a norm of 0 the division.
double clip_coefficient(double norm, double max_norm) {
  const double coefficient = max_norm / (norm + 1e-6);
  return coefficient > 1.0 ? 1.0 : coefficient;  // NaN stays NaN
}

}  // namespace

bool Plan::measure() {
  if (!needs_grad_norm_) return true;
  gradient_squares_.add_up(tasks_, 0, tasks_.size());
  task_squares_.clear();  // in memory of stage()
  for (std::size_t k = 0; k < tasks_.size(); ++k)
    task_squares_.push_back(gradient_squares_.of(k)[0]);
  const bool is_wide = std::ranges::any_of(
      tasks_, [](const Task& task) { return task.arithmetic == Format::kFloat64; });
  const double norm = std::sqrt(sum_of(task_squares_));
  grad_norm_ = is_wide ? GradNorm{norm, Format::kFloat64}
                       : GradNorm{static_cast<float>(norm), Format::kFloat32};
  for (std::size_t k = 0; k < groups_.size(); ++k)
    if (groups_[k].max_grad_norm != 0.0)
      transforms_[k].clip = clip_coefficient(norm, groups_[k].max_grad_norm);
  return std::isfinite(grad_norm_->value) || std::ranges::none_of(groups_, &Group::skip_nonfinite);
}

}  // namespace onepass
