// The few macros of the project: what differs between compilers and devices.
#pragma once

// What the library of kernels offers to those who load it; all else of it is hidden.
#define ONEPASS_API __attribute__((visibility("default")))

// A function of the element loop. Inlining is forced, because a call that is left standing would
// run the baseline copy of the function inside a loop compiled for a wider instruction set.
#if defined(__CUDACC__)
#define ONEPASS_FN __host__ __device__ __forceinline__
#else
#define ONEPASS_FN inline __attribute__((always_inline))
#endif

// Compiles a function for one level of the x86-64 instruction set, whatever the command line says.
#if defined(__x86_64__) && defined(__GNUC__)
#define ONEPASS_X86_64 1
#define ONEPASS_TARGET_V3 __attribute__((target("arch=x86-64-v3")))
#define ONEPASS_TARGET_V4 __attribute__((target("arch=x86-64-v4")))
#endif

// The iterations of the loop that follows are independent: no two operands of a rule overlap,
// which the plan has checked.
#if defined(__clang__)
#define ONEPASS_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define ONEPASS_INDEPENDENT _Pragma("GCC ivdep")
#endif
