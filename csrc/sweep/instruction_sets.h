// One function compiled for several instruction sets, and the choice between them.
#pragma once

#include <array>

#include "../portable.h"

namespace onepass {

inline constexpr const char* kInstructionSets[] = {"baseline", "x86-64-v3", "x86-64-v4"};

#ifdef ONEPASS_X86_64
inline constexpr int kInstructionSetCount = 3;
#else
inline constexpr int kInstructionSetCount = 1;
#endif

// PerInstructionSet<&body>::table holds `body`, a function marked ONEPASS_FN, once for every
// instruction set.
template <auto body>
struct PerInstructionSet;

template <class... Args, void (*body)(Args...)>
struct PerInstructionSet<body> {
  using Function = void (*)(Args...);
  static void baseline(Args... args) { body(args...); }
#ifdef ONEPASS_X86_64
  ONEPASS_TARGET_V3 static void v3(Args... args) { body(args...); }
  ONEPASS_TARGET_V4 static void v4(Args... args) { body(args...); }
  static constexpr std::array<Function, kInstructionSetCount> table = {baseline, v3, v4};
#else
  static constexpr std::array<Function, kInstructionSetCount> table = {baseline};
#endif
};

// The widest instruction set of this machine, as an index into the tables.
inline int widest_instruction_set() noexcept {
#ifdef ONEPASS_X86_64
  if (__builtin_cpu_supports("x86-64-v4")) return 2;
  if (__builtin_cpu_supports("x86-64-v3")) return 1;
#endif
  return 0;
}

// The instruction set in use. Tests lower it; all of them give the same bits.
ONEPASS_API int instruction_set();
ONEPASS_API void set_instruction_set(int index);

}  // namespace onepass
