// The kernels compiled for the CPU, in a build for tests.
#ifdef ONEPASS_EMULATE_CUDA

#include "part0.cu"
#include "part1.cu"
#include "part2.cu"
#include "part3.cu"
#include "part4.cu"
#include "runtime.cu"

#endif
