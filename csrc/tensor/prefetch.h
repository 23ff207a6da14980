// Asking for memory before it is needed. Tensors, Python's objects and their parts lie scattered,
// and waiting for one after the other takes most of the time of a walk over many small tensors.
//
// All is inlined by force, because GCC takes a function that does no more for one without effects
// and leaves calls of it out.
#pragma once

#include <ATen/core/TensorBase.h>

#include <cstddef>

#include "torch_compat.h"

namespace onepass {

// Any address: to ask for one that is nothing any more is harmless.
[[gnu::always_inline]] inline void prefetch(const void* address) { __builtin_prefetch(address); }

template <class Header>
[[gnu::always_inline]] inline void prefetch_lines(const Header* header) {
  for (std::size_t line = 0; line < sizeof(Header); line += 64)
    prefetch(reinterpret_cast<const char*>(header) + line);
}

// What follows reads the tensor, which must live.

// The line of a header that says where the version is counted.
[[gnu::always_inline]] inline void prefetch_version_header(const at::TensorBase& tensor) {
  prefetch(version_field(tensor));
}

// Where the version is counted, once that has come.
[[gnu::always_inline]] inline void prefetch_version(const at::TensorBase& tensor) {
  prefetch(version_address(tensor));
}

}  // namespace onepass
