// Where tensors lie in memory, and whether they share it.
#pragma once

#include <ATen/core/TensorBase.h>

#include <cstddef>

#include "subject.h"

namespace onepass {

// The bytes between the first and the last element of a tensor.
struct ByteRange {
  const std::byte *begin, *end;

  bool overlaps(const ByteRange& other) const { return begin < other.end && other.begin < end; }
  bool operator==(const ByteRange&) const = default;
};

enum class Access { kRead, kWrite };

// Where a tensor's elements lie; raises when its storage is too small for its sizes.
ByteRange byte_range_of(const at::TensorBase& tensor, Access access, const Subject& subject);

// Whether a tensor's storage is large enough for its sizes.
bool has_memory(const at::TensorBase& tensor);

// Whether two tensors have an element in common.
bool share_elements(const at::TensorBase& a, const ByteRange& range_a, const at::TensorBase& b,
                    const ByteRange& range_b);

// Whether two elements of a tensor share memory.
bool overlaps_itself(const at::TensorBase& tensor, const Subject& subject);

}  // namespace onepass
