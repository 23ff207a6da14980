// The state of a torch.optim.Optimizer: from Python's dicts to the tensors of each parameter.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "../step/group.h"
#include "../step/tensors.h"
#include "../tensor/prefetch.h"
#include "pyobject.h"

namespace onepass {

// Where a parameter and all that belongs to it lay in the step before, for prefetching alone:
// nothing is read there, since nothing may be there any more.
class LastAddresses {
 public:
  [[gnu::always_inline]] void note(const void* object, const void* state, const void* grad,
                                   const Tensors& tensors, int state_count) {
    objects_[0] = object;
    objects_[1] = state;
    objects_[2] = grad;
    objects_[3] = tensors.step;
    count_ = 0;
    note_tensor(tensors.param);
    if (tensors.grad != nullptr) note_tensor(tensors.grad);
    if (tensors.step != nullptr) note_tensor(tensors.step);
    for (int k = 0; k < state_count; ++k) {
      objects_[4 + k] = tensors.states[k];
      note_tensor(tensors.states[k]);
    }
  }

  [[gnu::always_inline]] void prefetch() const {
    for (const void* object : objects_) onepass::prefetch(object);
    for (int k = 0; k < count_; ++k) {
      prefetch_lines(headers_[k]);
      prefetch_lines(storages_[k]);
    }
  }

 private:
  [[gnu::always_inline]] void note_tensor(const at::TensorBase* tensor) {
    headers_[count_] = tensor->unsafeGetTensorImpl();
    storages_[count_] = headers_[count_]->unsafe_storage().unsafeGetStorageImpl();
    ++count_;
  }

  static constexpr int kMost = kMaxStates + 3;  // parameter, gradient, step count, states
  int count_ = 0;
  const void* objects_[kMaxStates + 4] = {};  // of Python
  const c10::TensorImpl* headers_[kMost] = {};
  const c10::StorageImpl* storages_[kMost] = {};
};

class StateReader {
 public:
  explicit StateReader(const Algorithm& algorithm);

  // Starts a walk over the parameters in the order of the groups, in which no Python code runs.
  void begin(PyObject* state);
  // Starts with one parameter alone, whose state is known, or null where it has none.
  void begin_one(PyObject* own) { own_ = own; }
  // Comes to the next parameter of the walk. Returns where to note its addresses.
  LastAddresses& next() {
    if (next_ == last_.size()) last_.emplace_back();
    if (next_ + kAhead < last_.size()) last_[next_ + kAhead].prefetch();
    return last_[next_++];
  }
  // The dict that holds a parameter's state, or null where the state is still to be made.
  PyObject* find(PyObject* param, const Group& group, const Subject& subject);
  // Passes over a parameter whose state is not needed.
  void skip(PyObject* param) { lookup_.skip(param); }
  // Reads the tensors of a state.
  void read(PyObject* state, const Group& group, const Subject& subject, Tensors& tensors) const;

  // Gives the states of parameters the logs that they lack.
  void add_logs(const std::deque<NewDecayLog>& logs, PyObject* groups, PyObject* state,
                NewEntries& entries) const;

 private:
  bool lacks(PyObject* state, const Group& group) const;
  inline bool read_in_order(PyObject* state, unsigned present, Tensors& tensors) const;

  static constexpr std::size_t kAhead = 8;
  const Algorithm& algorithm_;
  PyObject* step_key_;  // this and the following are interned
  std::vector<PyObject*> state_keys_, exponent_keys_, number_keys_;
  PyObject *decay_log_key_, *row_decay_log_key_;
  StateLookup lookup_{nullptr};
  std::optional<PyObject*> own_;  // of the only parameter that is asked for, if it is one
  std::vector<LastAddresses> last_;
  std::size_t next_ = 0;
};

}  // namespace onepass
