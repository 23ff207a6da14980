#include "coefficients.h"

#include <cstring>
#include <span>

namespace onepass {
namespace {

std::span<const StateNumberMemory> numbers_of(const Entry& entry, const Group& group) {
  return {entry.numbers, group.algorithm->numbers.size()};
}

bool have_same_coefficients(const Group& a, const Group& b) {
  if (&a == &b || a.algorithm != b.algorithm || a.present != b.present) return &a == &b;
  // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): 0 and -0 may count as different
  return std::memcmp(a.hypers, b.hypers, sizeof(a.hypers)) == 0;
}

}  // namespace

bool StepCoefficients::serves(const Key& key) const {
  return key_.group != nullptr && key.step == key_.step && key.arithmetic == key_.arithmetic &&
         key.numbers == key_.numbers && have_same_coefficients(*key.group, *key_.group);
}

Coefficients& StepCoefficients::of(const Entry& entry, const Group& group, double step,
                                   Format arithmetic, bool own) {
  const std::span<const StateNumberMemory> memory = numbers_of(entry, group);
  if (&group == key_.group && step == key_.step && arithmetic == key_.arithmetic &&
      memory.empty() && !own)
    return made_.back();
  StateNumber numbers[kMaxNumbers] = {};
  for (std::size_t n = 0; n < memory.size(); ++n) numbers[n] = memory[n].read();
  const Key key{&group, step, arithmetic, {numbers[0], numbers[1]}};
  if (own || !serves(key)) {
    key_ = key;
    group.variant().coefficients(group.hypers, step, numbers, arithmetic, made_.emplace_back());
    next_numbers_ = {numbers[0], numbers[1]};
  }
  for (std::size_t n = 0; n < memory.size(); ++n) memory[n].write(next_numbers_[n].value);
  return made_.back();
}

void finish(const Entry& entry, const Group& group, const Task& task, const double* sums) {
  const std::span<const StateNumberMemory> memory = numbers_of(entry, group);
  StateNumber numbers[kMaxNumbers] = {};
  for (std::size_t n = 0; n < memory.size(); ++n) numbers[n] = memory[n].read();
  group.variant().finish(sums, static_cast<double>(task.size), numbers, task.arithmetic,
                         *entry.coefficients);
  for (std::size_t n = 0; n < memory.size(); ++n) memory[n].write(numbers[n].value);
}

}  // namespace onepass
