// Which tensor of which parameter is meant, for error messages.
#pragma once

#include <string>

namespace onepass {

// Says in error messages which parameter is meant.
struct Names {
  virtual std::string parameter(int group, int index) const = 0;

 protected:
  ~Names() = default;
};

// Those of tensors in a list of arguments: averages[3].
struct ListNames final : Names {
  explicit ListNames(const char* list_name) : list(list_name) {}
  std::string parameter(int /*group*/, int index) const override {
    return std::string(list) + "[" + std::to_string(index) + "]";
  }
  const char* list;
};

// One tensor of one parameter, for error messages.
struct Subject {
  const Names& names;
  int group, index;
  const char* role = "the data";

  Subject about(const char* other) const { return {names, group, index, other}; }
  std::string parameter() const { return names.parameter(group, index); }
  // "exp_avg of 'layer.weight' (parameter 3 of group 0)"
  std::string text() const { return std::string(role) + " of " + parameter(); }
};

}  // namespace onepass
