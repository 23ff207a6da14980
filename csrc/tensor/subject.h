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
