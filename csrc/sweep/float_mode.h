// The floating-point mode of a thread: the rounding direction, and whether denormals are flushed
// to 0 (torch.set_flush_denormal). Each thread has its own.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace onepass {

// The control register of the vector unit; on an architecture that is not named here the mode is
// unknown and left alone.
struct FloatMode {
  std::uint64_t control = 0;

  static FloatMode current() {
#if defined(__x86_64__)
    return {_mm_getcsr() & ~kFlags};
#elif defined(__aarch64__)
    std::uint64_t control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    return {control};
#else
    return {};
#endif
  }

  void set() const {
#if defined(__x86_64__)
    _mm_setcsr(static_cast<unsigned>(control) | (_mm_getcsr() & kFlags));
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(control));
#endif
  }

  bool operator==(const FloatMode&) const = default;

 private:
#if defined(__x86_64__)
  static constexpr unsigned kFlags = 0x3f;  // of exceptions so far: results, not modes
#endif
};

// Gives the thread a mode until the end of the scope.
class FloatModeGuard {
 public:
  explicit FloatModeGuard(const FloatMode& mode)
      : before_(FloatMode::current()), changed_(mode != before_) {
    if (changed_) mode.set();
  }
  FloatModeGuard(const FloatModeGuard&) = delete;
  FloatModeGuard& operator=(const FloatModeGuard&) = delete;
  ~FloatModeGuard() {
    if (changed_) before_.set();
  }

 private:
  const FloatMode before_;
  const bool changed_;
};

}  // namespace onepass
