// The options of a parameter group: from Python's dict to numbers, checked.
#pragma once

#include <vector>

#include "plan.h"
#include "python_access.h"

namespace onepass {

class GroupReader {
 public:
  explicit GroupReader(const Algorithm& algorithm);

  Group read(PyObject* group, int index);

 private:
  struct Slot {
    const HyperInfo& hyper;
    std::size_t key;  // position in keys_
  };
  struct Place {
    PyObject* key = nullptr;
    std::size_t value = 0;
  };

  void look(PyObject* group);
  PyObject* find(PyObject* group, std::size_t key) const;
  bool is_set(PyObject* group, std::size_t key);

  static constexpr std::size_t kMaximize = 0;  // the first of keys_
  const Algorithm& algorithm_;
  std::vector<PyObject*> keys_;    // interned, each once
  std::vector<PyObject*> values_;  // of keys_ in the group that was looked at, borrowed; and
                                   // at the end a place for those of other keys
  std::vector<Slot> slots_;        // by hyper-parameter
  std::vector<int> option_keys_;   // positions in keys_ by state, or -1
  // The keys of the group before, in their order, and which of values_ belongs to them: groups
  // nearly always have the same keys in the same order.
  std::vector<Place> layout_;
};

}  // namespace onepass
