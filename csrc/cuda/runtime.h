// The few calls of CUDA's runtime that a step makes beside its launches, free of CUDA's headers.
#pragma once

#include <cstddef>
#include <string>

#include "../portable.h"

namespace onepass::cuda {

// What compiled the kernels, and the compute capabilities that they are for; empty where there are
// none.
ONEPASS_API std::string compiler();
ONEPASS_API std::string architectures();

// Makes a device current for the launches of this thread.
ONEPASS_API void use_device(int device);

// Why this build's kernels do not run on the current device; empty where they do.
ONEPASS_API std::string kernels_error();

// Whether launches in this stream are recorded for a graph rather than run.
ONEPASS_API bool is_capturing(void* stream);

// A copy of `used` bytes at the start of `size` bytes of the device's memory, which is never freed:
// a captured graph reads it whenever it is replayed, and nobody says when it was for the last time.
// No launch of the graph copies it, so that nothing on the host has to outlive the call.
ONEPASS_API std::byte* keep_for_graph(const std::byte* bytes, std::size_t used, std::size_t size);

// What went wrong since the last call, or nothing.
ONEPASS_API std::string last_error();

}  // namespace onepass::cuda
