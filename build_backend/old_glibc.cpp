// Symbols of an older glibc in place of the build machine's, for wheels that many machines take.
// exp and log of GLIBC_2.29 differ from the older ones in how they report errors, not in bits.
#include <features.h>

#ifdef __GLIBC__
#if defined(__x86_64__)
#define ONEPASS_OLD_GLIBC "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define ONEPASS_OLD_GLIBC "GLIBC_2.17"
#else
#error "ONEPASS_MANYLINUX=1: which version of glibc has the first exp on this architecture?"
#endif

__asm__(".symver old_exp, exp@" ONEPASS_OLD_GLIBC);
__asm__(".symver old_log, log@" ONEPASS_OLD_GLIBC);

extern "C" {
double old_exp(double x);
double old_log(double x);

// The linker sends calls here: --wrap=exp, --wrap=log.
double __wrap_exp(double x) { return old_exp(x); }
double __wrap_log(double x) { return old_log(x); }

// Of GLIBC_2.32. libstdc++ asks whether it may count references without atomics: it may not.
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
#endif
