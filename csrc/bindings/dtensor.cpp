#include "dtensor.h"

#include <structmember.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "../tensor/checks.h"
#include "../tensor/prefetch.h"
#include "pyobject.h"

namespace onepass {
namespace {

// The value of a slot of an object: where Python says it lies, or by its name.
class Slot {
 public:
  Slot(PyObject* type, const char* name) : name_(interned(name)) {
    const auto found = py::reinterpret_steal<py::object>(PyObject_GetAttr(type, name_));
    if (!found) throw py::error_already_set();
    if (Py_TYPE(found.ptr()) != &PyMemberDescr_Type) return;
    const PyMemberDef& member = *reinterpret_cast<PyMemberDescrObject*>(found.ptr())->d_member;
    if (member.type == T_OBJECT_EX) offset_ = member.offset;
  }

  // Borrowed from the object; null where nothing is stored.
  PyObject* of(PyObject* object) const {
    if (offset_ >= 0)
      return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset_);
    const auto value = py::reinterpret_steal<py::object>(PyObject_GetAttr(object, name_));
    if (!value) PyErr_Clear();
    return value.ptr();  // the object holds it
  }

 private:
  PyObject* name_;
  Py_ssize_t offset_ = -1;
};

// As much of an object as is read of a DTensor.
using Lines = std::array<std::byte, 128>;

// The classes of torch.distributed.tensor.
struct Classes {
  py::object dtensor, shard, replicate;
  Slot local, spec;

  explicit Classes(const py::handle& module)
      : dtensor(module.attr("DTensor")),
        shard(module.attr("Shard")),
        replicate(module.attr("Replicate")),
        local(dtensor.ptr(), "_local_tensor"),
        spec(dtensor.ptr(), "_spec") {}
};

// Null before anybody has imported them: then there are no DTensors.
const Classes* classes() {
  static const Classes* found = nullptr;
  if (found != nullptr) return found;
  static PyObject* const name = interned("torch.distributed.tensor");
  const auto module = py::reinterpret_steal<py::object>(PyImport_GetModule(name));
  if (!module) PyErr_Clear();
  if (module && py::hasattr(module, "DTensor")) found = new Classes(module);
  return found;
}

py::object attribute(PyObject* object, const char* name) {
  auto value = py::reinterpret_steal<py::object>(PyObject_GetAttrString(object, name));
  if (!value) PyErr_Clear();
  return value;
}

// The dimension that a placement shards, -1 for none of a replicated tensor, or -2.
std::int64_t sharded_dim(PyObject* placement, const Classes& known) {
  if (Py_TYPE(placement) == reinterpret_cast<PyTypeObject*>(known.replicate.ptr())) return -1;
  if (Py_TYPE(placement) != reinterpret_cast<PyTypeObject*>(known.shard.ptr())) return -2;
  const py::object dim = attribute(placement, "dim");
  return dim && PyLong_CheckExact(dim.ptr()) ? PyLong_AsLongLong(dim.ptr()) : -2;
}

bool same_placements(PyObject* a, PyObject* b, const Classes& known) {
  const py::object all_a = attribute(a, "placements"), all_b = attribute(b, "placements");
  if (!all_a || !all_b || !PyTuple_CheckExact(all_a.ptr()) || !PyTuple_CheckExact(all_b.ptr()) ||
      PyTuple_GET_SIZE(all_a.ptr()) != PyTuple_GET_SIZE(all_b.ptr()))
    return false;
  // Over which mesh dimension a dimension is cut first is not told by the placements.
  std::uint64_t dims = 0;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(all_a.ptr()); ++i) {
    const std::int64_t dim = sharded_dim(PyTuple_GET_ITEM(all_a.ptr(), i), known);
    if (dim < -1 || dim >= 64 || dim != sharded_dim(PyTuple_GET_ITEM(all_b.ptr(), i), known))
      return false;
    if (dim >= 0 && (dims >> dim & 1) != 0) return false;
    if (dim >= 0) dims |= std::uint64_t{1} << dim;
  }
  return true;
}

}  // namespace

LocalTensor DTensorReader::local_of(const at::Tensor& tensor) {
  const Classes* const known = classes();
  if (known == nullptr) return {};
  const std::size_t k = next_++;
  if (k >= seen_.size()) seen_.resize(k + 1);
  if (k + kAhead < seen_.size()) {
    const Seen& later = seen_[k + kAhead];
    prefetch_lines(static_cast<const Lines*>(later.object));
    prefetch_lines(static_cast<const Lines*>(later.local));
    prefetch_lines(later.header);
  }
  const auto object = py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor));
  if (Py_TYPE(object.ptr()) != reinterpret_cast<PyTypeObject*>(known->dtensor.ptr())) return {};
  PyObject* const local = known->local.of(object.ptr());
  PyObject* const spec = known->spec.of(object.ptr());
  if (local == nullptr || spec == nullptr || !THPVariable_Check(local)) return {};
  const at::Tensor& held = THPVariable_Unpack(local);
  seen_[k] = {object.ptr(), local, held.unsafeGetTensorImpl()};
  if (needs_dispatcher(held) || held.layout() != at::kStrided) return {};
  return {&held, spec};
}

// Torch's operators may answer with a mesh that is equal to that of their arguments.
bool DTensorReader::same_mesh(const py::object& a, const py::object& b) {
  const auto is_pair = [&](const Pair& pair) { return pair.is(a.ptr(), b.ptr()); };
  if (!a || !b || a.is(b) || std::ranges::any_of(equal_, is_pair)) return a && b;
  unknown_ = {a, b};
  return false;
}

bool DTensorReader::compare_meshes() {
  const Pair pair = std::exchange(unknown_, {});
  if (!pair.a || !pair.a.equal(pair.b)) return false;
  equal_.push_back(pair);
  return true;
}

void DTensorReader::end() {
  constexpr std::size_t kMost = 64;  // of meshes that come and go
  if (equal_.size() > kMost) equal_.clear();
  replaced_.clear();
}

bool DTensorReader::are_alike(PyObject* a, PyObject* b) {
  const std::size_t k = next_pair_++;
  if (k < alike_.size() && alike_[k].is(a, b)) return true;
  const Classes* const known = classes();
  if (known == nullptr || !same_placements(a, b, *known) ||
      !same_mesh(attribute(a, "mesh"), attribute(b, "mesh")))
    return false;
  if (k >= alike_.size()) alike_.resize(k + 1);
  replaced_.push_back(std::move(alike_[k]));
  alike_[k] = {py::reinterpret_borrow<py::object>(a), py::reinterpret_borrow<py::object>(b)};
  return true;
}

}  // namespace onepass
