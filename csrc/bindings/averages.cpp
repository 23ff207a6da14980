#include "averages.h"

namespace onepass {
namespace {

// What a step moves: elements that lie in memory as they are, on the CPU.
void check_moved(const at::TensorBase& tensor, const Subject& subject) {
  TORCH_CHECK(tensor.layout() == at::kStrided && !tensor.is_conj() && !tensor.is_neg(),
              subject.text(), " has layout ", tensor.layout(),
              tensor.is_conj() ? ", conjugated" : "", tensor.is_neg() ? ", negated" : "",
              "; averages that follow a step are of dense ",
              "tensors: make the EMA without optimizer= and call its update()");
  TORCH_CHECK(tensor.is_cpu(), subject.text(), " is on ", tensor.device(), ", but averages follow ",
              "a step on the CPU only; make the EMA without optimizer= and call its update()");
}

struct WeightNames final : Names {
  explicit WeightNames(const py::list& all) : names(all) {}
  std::string parameter(int /*group*/, int index) const override {
    return "'" + py::str(names[static_cast<std::size_t>(index)]).cast<std::string>() + "'";
  }
  const py::list& names;
};

}  // namespace

Averages::Averages() { group_.algorithm = find_algorithm("ema"); }

void Averages::prepare(const py::list& averages, const py::list& weights, const py::list& names,
                       double beta, double step) {
  group_.hypers[0] = beta;
  group_.hypers[1] = step;
  plan_.begin({&group_, 1});
  TORCH_CHECK(averages.size() == weights.size() && averages.size() == names.size(), averages.size(),
              " averages and ", names.size(), " names of ", weights.size(), " weights");
  const WeightNames texts(names);
  for (std::size_t k = 0; k < averages.size(); ++k) {
    const Subject subject{texts, 0, static_cast<int>(k)};
    PyObject* const average = PyList_GET_ITEM(averages.ptr(), static_cast<Py_ssize_t>(k));
    PyObject* const weight = PyList_GET_ITEM(weights.ptr(), static_cast<Py_ssize_t>(k));
    tensors_.param = &tensor_of(average, subject, subject.role);
    tensors_.grad = &tensor_of(weight, subject, group_.algorithm->roles.one_read);
    check_moved(*tensors_.param, subject);
    check_moved(*tensors_.grad, subject.about(group_.algorithm->roles.one_read));
    plan_.add(tensors_, subject);
  }
  plan_.close();
}

void AveragesOfStep::stage(const py::list& given) {
  for (const py::handle arguments : given) {
    const auto one = arguments.cast<py::tuple>();
    auto* const averages = one[0].cast<Averages*>();
    all_.push_back(averages);
    averages->prepare(one[1], one[2], one[3], one[4].cast<double>(), one[5].cast<double>());
    averages->plan().stage();
  }
}

}  // namespace onepass
