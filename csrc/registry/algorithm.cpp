#include "algorithm.h"

#include <iterator>

#include "../rules/rules.h"

#ifndef ONEPASS_VERSION
#define ONEPASS_VERSION "unknown"
#endif

namespace onepass {
namespace {

template <class... Family>
std::vector<Algorithm> algorithms_of_all(FamilyList<Family...> /*all*/) {
  std::vector<Algorithm> algorithms;
  (std::ranges::move(algorithms_of<Family>(), std::back_inserter(algorithms)), ...);
  return algorithms;
}

}  // namespace

std::span<const Algorithm> algorithms() {
  static const std::vector<Algorithm> all = algorithms_of_all(Families{});
  return all;
}

std::string_view library_version() { return ONEPASS_VERSION; }

const Algorithm* find_algorithm(std::string_view name) {
  const auto all = algorithms();
  const auto found = std::ranges::find(all, name, &Algorithm::name);
  return found == all.end() ? nullptr : &*found;
}

}  // namespace onepass
