#include "operand.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cuda/place.h"
#include "cuda/step.h"

namespace onepass {
namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;

bool is_plain(const at::TensorBase& tensor) {
  const DispatchKeySet keys = tensor.key_set() - kSurroundings;
  return keys == DispatchKeySet(DispatchKey::CPU) || keys == DispatchKeySet(DispatchKey::CUDA) ||
         keys == DispatchKeySet(DispatchKey::Meta);
}

// The distance in elements from the first element to the one past the last.
std::size_t extent_of(const at::TensorBase& tensor) {
  if (tensor.is_contiguous() || tensor.numel() == 0)
    return static_cast<std::size_t>(tensor.numel());
  std::int64_t extent = 1;
  for (std::int64_t dim = 0; dim < tensor.dim(); ++dim)
    extent += (tensor.size(dim) - 1) * tensor.stride(dim);
  return static_cast<std::size_t>(extent);
}

// Which bytes the elements of tensors take, one by one: for layouts whose spans cannot tell.
class Footprint {
 public:
  explicit Footprint(const Span& span) : begin_(span.begin), taken_(span.end - span.begin) {}

  // Takes the bytes of all elements within the span; false if one was taken before.
  bool take(const at::TensorBase& tensor, const Span& span) {
    const auto itemsize = static_cast<std::int64_t>(tensor.itemsize());
    std::vector<std::int64_t> index(tensor.dim());
    for (std::int64_t count = tensor.numel(); count > 0; --count) {
      std::int64_t offset = span.begin - begin_;
      for (std::int64_t dim = 0; dim < tensor.dim(); ++dim)
        offset += index[dim] * tensor.stride(dim) * itemsize;
      if (!take_bytes(offset, itemsize)) return false;
      for (std::int64_t dim = tensor.dim() - 1; dim >= 0; --dim) {
        if (++index[dim] < tensor.size(dim)) break;
        index[dim] = 0;
      }
    }
    return true;
  }

 private:
  bool take_bytes(std::int64_t begin, std::int64_t count) {
    const auto size = static_cast<std::int64_t>(taken_.size());
    bool free = true;
    for (std::int64_t k = std::max<std::int64_t>(begin, 0); k < std::min(begin + count, size);
         ++k) {
      free = free && !taken_[k];
      taken_[k] = true;
    }
    return free;
  }

  const std::byte* begin_;
  std::vector<bool> taken_;
};

// Whether every stride reaches beyond all the dimensions of smaller stride, as in all that slicing,
// transposing and permuting can make: then no two indices reach the same element.
bool is_nested(const at::TensorBase& tensor) {
  std::vector<std::int64_t> dims(tensor.dim());
  std::iota(dims.begin(), dims.end(), 0);
  std::ranges::sort(dims, {}, [&](std::int64_t dim) { return tensor.stride(dim); });
  std::int64_t reach = 0;
  for (const std::int64_t dim : dims) {
    if (tensor.size(dim) == 1) continue;
    if (tensor.stride(dim) <= reach) return false;
    reach += (tensor.size(dim) - 1) * tensor.stride(dim);
  }
  return true;
}

bool overlaps_itself(const at::TensorBase& tensor, const Subject& subject) {
  if (tensor.is_non_overlapping_and_dense() || tensor.numel() <= 1 || is_nested(tensor))
    return false;
  for (std::int64_t dim = 0; dim < tensor.dim(); ++dim)
    if (tensor.size(dim) > 1 && tensor.stride(dim) == 0) return true;
  const Span span = span_of(tensor, Access::kRead, subject);
  return span.begin != nullptr && !Footprint(span).take(tensor, span);
}

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
              cuda::find_row("sgd") != nullptr ? " or beside the parameter" : "");
  check_writable(tensor, subject);
  span_of(tensor, Access::kWrite, subject);
}

}  // namespace

bool unusual_needs_dispatcher(const at::TensorBase& tensor) {
  return tensor.key_set().has_any(kDispatched);
}

bool is_lazy(const at::TensorBase& tensor) { return tensor.key_set().has_any(kLazy); }

bool is_supported(const at::TensorBase& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
    case at::kDouble:
    case at::kBFloat16:
    case at::kHalf:
    case at::kComplexFloat:
    case at::kComplexDouble:
      return true;
    default:
      return false;
  }
}

void check_device(const at::TensorBase& tensor, const Subject& subject) {
  const c10::Device device = tensor.device();
  TORCH_CHECK(device.is_cpu() || device.is_meta() || device.is_cuda(), subject.text(), " is on ",
              device, ", but onepass has kernels for the CPU and CUDA devices only; move the ",
              "model to one of them");
  if (device.is_cuda()) cuda::check_supported(device);
}

void check_kind(const at::TensorBase& tensor, const Subject& subject) {
  check_device(tensor, subject);
  if (is_plain(tensor) && is_supported(tensor)) return;
  TORCH_CHECK(tensor.layout() == at::kStrided, subject.text(), " has layout ", tensor.layout(),
              "; onepass takes dense (strided) tensors: call .to_dense()");
  TORCH_CHECK(is_supported(tensor), subject.text(), " has dtype ", tensor.scalar_type(),
              "; supported are float32, float64, bfloat16, float16, complex64", " and complex128");
  TORCH_CHECK(!is_lazy(tensor), subject.text(), " is a lazily conjugated or negated view, which ",
              "cannot be updated in place: call .resolve_conj().resolve_neg()");
  TORCH_CHECK(false, subject.text(), " is a tensor of a kind that onepass does not know (",
              tensor.key_set(), "); pass a plain tensor");
}

void check_matches(const at::TensorBase& tensor, const at::TensorBase& param,
                   const Subject& subject) {
  TORCH_CHECK(tensor.sizes() == param.sizes(), subject.text(), " has shape ", tensor.sizes(),
              ", but the parameter has shape ", param.sizes(), "; give it that shape");
  TORCH_CHECK(tensor.device() == param.device(), subject.text(), " is on ", tensor.device(),
              ", but the parameter is on ", param.device(), "; move it there");
  TORCH_CHECK(tensor.is_complex() == param.is_complex(), subject.text(), " has dtype ",
              tensor.scalar_type(), ", but the parameter has dtype ", param.scalar_type(),
              ": both must be real or both complex");
}

void check_writable(const at::TensorBase& tensor, const Subject& subject) {
  TORCH_CHECK(!tensor.is_inference() || c10::InferenceMode::is_enabled(), subject.text(),
              ": Inplace update to inference tensor outside InferenceMode is not allowed");
  TORCH_CHECK(
      !overlaps_itself(tensor, subject), subject.text(), " has sizes ", tensor.sizes(),
      " and strides ", tensor.strides(),
      ": some of its elements share memory, so it cannot be updated in place; call .clone()");
}

Float stored_type(const at::TensorBase& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
    case at::kComplexDouble:
      return Float::kFloat64;
    case at::kBFloat16:
      return Float::kBFloat16;
    case at::kHalf:
      return Float::kFloat16;
    default:
      return Float::kFloat32;
  }
}

Span span_of(const at::TensorBase& tensor, Access access, const Subject& subject) {
  const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
  const std::size_t extent = extent_of(tensor) * impl.itemsize();
  if (extent == 0 || tensor.is_meta()) return {nullptr, nullptr};
  const c10::Storage& storage = impl.unsafe_storage();
  const std::size_t offset = impl.storage_offset() * impl.itemsize();
  TORCH_CHECK(offset + extent <= storage.nbytes(), subject.text(), " needs ", offset + extent,
              " bytes of storage, but its storage has ", storage.nbytes(),
              ": it was freed or resized; restore it before the step");
  const void* data = access == Access::kWrite ? storage.mutable_data() : storage.data();
  const auto* begin = static_cast<const std::byte*>(data) + offset;
  return {begin, begin + extent};
}

bool share_elements(const at::TensorBase& a, const Span& span_a, const at::TensorBase& b,
                    const Span& span_b) {
  if (!span_a.overlaps(span_b)) return false;
  if (a.is_non_overlapping_and_dense() && b.is_non_overlapping_and_dense()) return true;
  Footprint footprint(span_a);
  footprint.take(a, span_a);
  return !footprint.take(b, span_b);
}

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

NumberMemory memory_of_number(const at::TensorBase& number) {
  return {number.mutable_data_ptr(), number.scalar_type() == at::kFloat};
}

}  // namespace onepass
