// The state of a torch.optim.Optimizer: from Python's dicts to the tensors of each parameter.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <vector>

#include "plan.h"
#include "python_access.h"

namespace onepass {

// Where the state of a parameter was found. It is there as long as two dicts hold what they held:
// the optimizer's state, with this parameter and its own state, and this with its tensors. Only
// once StateReader::begin() has compared the version of the first may `state` be looked at.
struct StatePlace {
  PyObject *param = nullptr, *state = nullptr;
  std::uint64_t version = 0;  // of its own state
  unsigned present = 0;       // which states its group asked for
  Tensors tensors;
  // Where the rest of the parameter lay, for prefetching alone.
  const void* grad_handle = nullptr;
  const c10::TensorImpl *param_header = nullptr, *grad_header = nullptr;

  [[gnu::always_inline]] void prefetch() const {
    if (param_header == nullptr) return;
    onepass::prefetch(grad_handle);
    prefetch_lines(param_header);
    prefetch_lines(grad_header);
    if (param == nullptr) return;
    onepass::prefetch(param);
    onepass::prefetch(state);
    onepass::prefetch(tensors.step);
    for (unsigned k = 0; k < static_cast<unsigned>(std::popcount(present)); ++k)
      onepass::prefetch(tensors.states[k]);
  }
};

class StateReader {
 public:
  explicit StateReader(const Algorithm& algorithm);

  // Starts a walk over the parameters in the order of the groups, in which no code of Python's
  // runs.
  void begin(PyObject* state);
  // Starts with one parameter alone, whose state is known, or null where it has none.
  void begin_one(PyObject* own) { own_ = own; }
  // The place of the next parameter, good until that of the one after it is asked for.
  StatePlace& next() {
    if (next_ == places_.size()) places_.emplace_back();
    if (next_ + kAhead < places_.size()) places_[next_ + kAhead].prefetch();
    return places_[next_++];
  }
  // Whether a parameter has a state, which is then in its place.
  bool find(PyObject* param, const Group& group, const Subject& subject, StatePlace& place) {
    return (place.param == param && place.present == group.present &&
            place.version == version_of(place.state)) ||
           look_up(param, group, subject, place);
  }
  // Passes over a parameter whose state is not needed.
  void skip(PyObject* param) { lookup_.skip(param); }

  // Gives the states of parameters the logs that they lack.
  void add_logs(const std::deque<NewDecayLog>& logs, PyObject* groups, PyObject* state,
                NewEntries& entries) const;

 private:
  bool look_up(PyObject* param, const Group& group, const Subject& subject, StatePlace& place);
  bool lacks(PyObject* state, const Group& group) const;
  Tensors read(PyObject* state, const Group& group, const Subject& subject) const;

  static constexpr std::size_t kAhead = 8;
  const Algorithm& algorithm_;
  PyObject* step_key_;  // this and the following are interned
  std::vector<PyObject*> state_keys_, number_keys_;
  PyObject *decay_log_key_, *row_decay_log_key_;
  StateLookup lookup_{nullptr};
  std::optional<PyObject*> own_;  // of the only parameter that is asked for, if it is one
  std::vector<StatePlace> places_;
  std::size_t next_ = 0;
  std::uint64_t version_ = 0;  // of the optimizer's state, when places_ were found
};

}  // namespace onepass
