// What programs share that test kernels on the CPU.
#pragma once

#include <cstdio>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>

#include "../csrc/emulation/cuda.h"

inline void require(bool holds, const std::string& promise) {
  if (!holds) throw std::runtime_error("broken: " + promise);
}

// A kernel that depends on the order of its blocks or threads fails in one of these.
template <class Check>
void in_every_order(const Check& check) {
  using namespace onepass::emulation;
  for (const Order& chosen : {kAscending, kDescending, shuffled(1), shuffled(2), shuffled(3)}) {
    order = chosen;
    check();
  }
  order = kAscending;
}

using Checks = std::map<std::string, void (*)()>;

// `program NAME` runs one check and exits with 1 and a message where it fails; without a name all
// names are printed.
inline int run_check(const Checks& checks, int count, char** arguments) try {
  if (count > 1) {
    checks.at(arguments[1])();
  } else {
    for (const auto& check : checks) std::puts(check.first.c_str());
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
