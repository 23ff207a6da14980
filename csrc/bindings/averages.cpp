#include "averages.h"

namespace onepass {

Averages::Averages() { group_.algorithm = find_algorithm("ema"); }

void Averages::prepare(const py::list& averages, const py::list& weights, double beta,
                       double step) {
  group_.hypers[0] = beta;
  group_.hypers[1] = step;
  plan_.begin({&group_, 1});
  TORCH_CHECK(averages.size() == weights.size(), averages.size(), " averages of ", weights.size(),
              " weights");
  const ListNames names(group_.algorithm->roles.written);
  for (std::size_t k = 0; k < averages.size(); ++k) {
    const Subject subject{names, 0, static_cast<int>(k)};
    PyObject* const average = PyList_GET_ITEM(averages.ptr(), static_cast<Py_ssize_t>(k));
    PyObject* const weight = PyList_GET_ITEM(weights.ptr(), static_cast<Py_ssize_t>(k));
    Tensors tensors;
    tensors.param = &tensor_of(average, subject, subject.role);
    tensors.grad = &tensor_of(weight, subject, group_.algorithm->roles.one_read);
    plan_.add(tensors, subject);
  }
  plan_.close();
}

void AveragesOfStep::stage(const py::list& given) {
  for (const py::handle arguments : given) {
    const auto one = arguments.cast<py::tuple>();
    auto* const averages = one[0].cast<Averages*>();
    all_.push_back(averages);
    averages->prepare(one[1], one[2], one[3].cast<double>(), one[4].cast<double>());
    averages->plan().stage();
  }
}

}  // namespace onepass
