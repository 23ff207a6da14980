// The options of a parameter group: from Python's dict to numbers, checked.
#pragma once

#include <span>
#include <vector>

#include "../step/group.h"
#include "pyobject.h"

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
  void check_arguments(PyObject* arguments, bool ranges) const;

  // Keeps in every group that decouples its decay from lr the largest rate that was read so far.
  // No code of Python's runs: what it replaces lives until let_go().
  void raise_reference_rates(PyObject* groups);

  // Lets go of the tensors that were read.
  void let_go();

 private:
  struct Option {
    PyObject* key;         // interned
    bool is_plain = true;  // only numbers that the group keeps depend on it
  };
  struct Slot {
    const HyperInfo& hyper;
    std::size_t option;  // position in options_
  };
  static constexpr int kNoOption = -1;
  // The first of options_.
  enum Switch : std::size_t { kMaximize, kSkipNonfinite, kStochasticRounding, kStateRounding };

  // One item of a group's dict. Both objects are owned: no other can have the address of one.
  struct Item {
    py::object key, value;  // the value of an option alone
    int option;             // or kNoOption
  };
  // What a group was read from.
  struct CachedGroup {
    std::vector<Item> items;   // of the whole dict, in its order
    bool is_constant = false;  // all options that the dict has are in `items`, and cannot change
  };

  void read_into(std::size_t place, PyObject* groups, int index);
  // By option, null where the dict lacks one.
  using Values = std::vector<py::object>;
  bool mark_equal_key(CachedGroup& cached, std::size_t option, PyObject* value) const;
  Values take(PyObject* dict, CachedGroup& cached) const;
  Group read_group(PyObject* dict, int index, const Values& values) const;
  bool update(PyObject* dict, CachedGroup& cached, Group& group) const;
  bool update_option(Item& item, PyObject* value, Group& group) const;
  double& number(Group& group, std::size_t slot) const;
  bool is_rules(std::size_t slot) const { return slot < algorithm_.hypers.size(); }
  bool knows_on_host(const Group& group, int hyper) const;

  const Algorithm& algorithm_;
  std::vector<Option> options_;     // each once
  std::vector<Slot> slots_;         // by hyper-parameter, and then max_grad_norm
  std::vector<int> state_options_;  // positions in options_ by state, or -1
  // Positions in slots_ of what decoupling the decay from lr needs, or -1.
  int lr_ = -1, reference_lr_ = -1, decouple_lr_ = -1;
  std::vector<Group> groups_;        // as read last
  std::vector<CachedGroup> cached_;  // by group
  int offset_ = 0;                   // which group the first of these is
  std::vector<py::object> replaced_;
};

}  // namespace onepass
