// The few calls of CUDA's runtime that a step makes beside its launches, free of CUDA's headers.
#pragma once

#include <cstddef>
#include <string>

namespace onepass::cuda {

// What compiled the kernels; empty where there are none.
std::string compiler();

// Makes a device current for the launches of this thread.
void use_device(int device);

// Why this build's kernels do not run on the current device; empty where they do.
std::string kernels_error();

// Whether launches in this stream are recorded for a graph rather than run.
bool is_capturing(void* stream);

// A copy of `used` bytes at the start of `size` bytes of the device's memory, which is never freed:
// a captured graph reads it whenever it is replayed, and nobody says when it was for the last time.
// No launch of the graph copies it, so that nothing on the host has to outlive the call.
std::byte* keep_for_graph(const std::byte* bytes, std::size_t used, std::size_t size);

// What went wrong since the last call, or nothing.
std::string last_error();

}  // namespace onepass::cuda
