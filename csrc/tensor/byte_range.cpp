#include "byte_range.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace onepass {
namespace {

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
  explicit Footprint(const ByteRange& range)
      : begin_(range.begin), taken_(range.end - range.begin) {}

  // Takes the bytes of all elements within the range; false if one was taken before.
  bool take(const at::TensorBase& tensor, const ByteRange& range) {
    const auto itemsize = static_cast<std::int64_t>(tensor.itemsize());
    std::vector<std::int64_t> index(tensor.dim());
    for (std::int64_t count = tensor.numel(); count > 0; --count) {
      std::int64_t offset = range.begin - begin_;
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

}  // namespace

ByteRange byte_range_of(const at::TensorBase& tensor, Access access, const Subject& subject) {
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

bool has_memory(const at::TensorBase& tensor) {
  if (tensor.numel() == 0 || tensor.is_meta()) return true;
  const std::size_t last = tensor.storage_offset() + extent_of(tensor);
  return last * tensor.itemsize() <= tensor.storage().nbytes();
}

bool share_elements(const at::TensorBase& a, const ByteRange& range_a, const at::TensorBase& b,
                    const ByteRange& range_b) {
  if (!range_a.overlaps(range_b)) return false;
  if (a.is_non_overlapping_and_dense() && b.is_non_overlapping_and_dense()) return true;
  Footprint footprint(range_a);
  footprint.take(a, range_a);
  return !footprint.take(b, range_b);
}

bool overlaps_itself(const at::TensorBase& tensor, const Subject& subject) {
  if (tensor.is_non_overlapping_and_dense() || tensor.numel() <= 1 || is_nested(tensor))
    return false;
  for (std::int64_t dim = 0; dim < tensor.dim(); ++dim)
    if (tensor.size(dim) > 1 && tensor.stride(dim) == 0) return true;
  const ByteRange range = byte_range_of(tensor, Access::kRead, subject);
  return range.begin != nullptr && !Footprint(range).take(tensor, range);
}

}  // namespace onepass
