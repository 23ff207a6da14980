#include "instruction_sets.h"

#include <atomic>

namespace onepass {
namespace {

// The widest is found by a constructor of libgcc that runs before this one.
std::atomic<int> chosen = widest_instruction_set();

}  // namespace

int instruction_set() { return chosen.load(std::memory_order_relaxed); }

void set_instruction_set(int index) { chosen.store(index, std::memory_order_relaxed); }

}  // namespace onepass
