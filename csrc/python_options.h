// The options of a parameter group: from Python's dict to numbers, checked.
#pragma once

#include <vector>

#include "plan.h"
#include "python_access.h"

namespace onepass {

class GroupReader {
 public:
  explicit GroupReader(const Algorithm& algorithm);

  // Reads a list of groups; those before `first` are left out. What it returns is good until the
  // next call. Code of Python's may run meanwhile.
  std::span<const Group> read(PyObject* groups, int first);

  // The same for one group alone.
  std::span<const Group> read_one(PyObject* groups, int index);

  // Checks the arguments of a constructor, which its groups start from: the types of those that
  // are there, and with `ranges` what they may be. No schedule has computed them: here nothing
  // below 0 counts as 0.
  void check_arguments(PyObject* arguments, bool ranges);

  // Keeps in every group that decouples its decay from lr the largest rate that was read so far.
  // No code of Python's runs: what it replaces lives until let_go().
  void raise_reference_rates(PyObject* groups);

  // Lets go of the tensors that were read.
  void let_go();

 private:
  struct Slot {
    const HyperInfo& hyper;
    std::size_t key;  // position in keys_
  };

  // What a group was read from.
  struct Known {
    std::vector<py::object> values;  // of keys_, owned: no other object can have the address of one
    std::uint64_t version = 0;       // of the group
    bool is_constant = false;        // none of the values can change

    PyObject* of(std::size_t key) const { return values[key].ptr(); }
  };

  [[gnu::always_inline]] inline void read_into(std::size_t place, PyObject* groups, int index);
  Group read_group(PyObject* group, int index, Known& known);
  bool is_unchanged(PyObject* group, std::size_t index);
  void look(PyObject* group);
  void look_everywhere(PyObject* group);
  void remember(PyObject* group, Known& known);
  PyObject* find(PyObject* group, std::size_t key) const;
  bool is_set(PyObject* group, std::size_t key);
  bool knows_on_host(const Group& group, int hyper) const;

  static constexpr std::size_t kMaximize = 0;  // the first of keys_
  const Algorithm& algorithm_;
  std::vector<PyObject*> keys_;    // interned, each once
  std::vector<PyObject*> values_;  // of keys_ in the group that was looked at, borrowed
  std::vector<Slot> slots_;        // by hyper-parameter
  std::vector<int> option_keys_;   // positions in keys_ by state, or -1
  // Positions in slots_ of what decoupling the decay from lr needs, or -1.
  int lr_ = -1, reference_lr_ = -1, decouple_lr_ = -1;
  // Where PyDict_Next() found each of keys_ in the group before, or -1: groups nearly always have
  // the same keys in the same order.
  std::vector<Py_ssize_t> positions_;
  std::vector<Group> groups_;  // as read last
  std::vector<Known> known_;   // by group
  int offset_ = 0;             // which group the first of these is
  std::vector<py::object> replaced_;
};

}  // namespace onepass
