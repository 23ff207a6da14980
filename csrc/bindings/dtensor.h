// DTensors, read natively: the tensor that a process holds of one, and how it is placed.
//
// What of DTensor is no public interface stands here and in dtensor.cpp: `_local_tensor`, `_spec`,
// `mesh` and `placements` of a spec, `dim` of a Shard (2.9 to 2.15). Reading it runs no Python
// code.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <vector>

#include "../tensor/python_compat.h"

namespace onepass {

// A DTensor's part in this process, borrowed from the DTensor; both are null where there is none
// that is plain memory.
struct LocalTensor {
  const at::Tensor* tensor = nullptr;
  PyObject* spec = nullptr;
};

// Reads DTensors in an order that is nearly always that of the walk before: what the next ones lead
// to is asked for ahead, and that specs are alike is found out once, since those of parameters and
// states stay the same objects.
class DTensorReader {
 public:
  // Starts a walk, in which no code of Python's runs.
  void begin() { next_ = next_pair_ = 0; }
  LocalTensor local_of(const at::Tensor& tensor);
  // Whether tensors of two specs are placed alike, by nothing but Shard and Replicate. Where only
  // Python code could tell, the answer is no.
  bool are_alike(PyObject* a, PyObject* b);
  // Compares the meshes that made the last walk answer no, which runs Python code. Returns whether
  // they are equal, so that another walk comes further.
  bool compare_meshes();
  // Ends a walk: lets go of specs that are not asked for any more, which may run Python code.
  void end();

 private:
  static constexpr std::size_t kAhead = 12;

  struct Pair {
    py::object a, b;

    bool is(PyObject* x, PyObject* y) const { return a.ptr() == x && b.ptr() == y; }
  };
  bool same_mesh(const py::object& a, const py::object& b);
  // Addresses of the walk before, for prefetching alone.
  struct Seen {
    const void *object = nullptr, *local = nullptr;
    const c10::TensorImpl* header = nullptr;
  };

  std::vector<Seen> seen_;
  std::vector<Pair> alike_, replaced_;
  Pair unknown_;             // two meshes that are different objects
  std::vector<Pair> equal_;  // such meshes, compared
  std::size_t next_ = 0, next_pair_ = 0;
};

}  // namespace onepass
