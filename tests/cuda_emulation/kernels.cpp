// The kernels compiled for the CPU, in a build for tests.
#ifdef ONEPASS_EMULATE_CUDA

#include "../../csrc/cuda/adam.cu"
#include "../../csrc/cuda/classic.cu"
#include "../../csrc/cuda/layerwise.cu"
#include "../../csrc/cuda/recent.cu"
#include "../../csrc/cuda/runtime.cu"

#endif
