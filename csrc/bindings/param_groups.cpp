#include "param_groups.h"

#include <algorithm>
#include <utility>

#include "../launch/device.h"
#include "../launch/launcher.h"
#include "option_values.h"

namespace onepass {
namespace {

// Whether a group has a parameter that is stepped on the CPU.
bool steps_on_cpu(PyObject* group) {
  static PyObject* const params_key = interned("params");
  PyObject* const params = get(group, params_key);
  if (params == nullptr || !PyList_Check(params)) return true;
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(params); ++k) {
    PyObject* const param = PyList_GET_ITEM(params, k);
    if (!THPVariable_Check(param) || !cuda::on_device(THPVariable_Unpack(param))) return true;
  }
  return false;
}

// A number of every group, whatever its rule.
const HyperInfo& max_grad_norm() {
  static const HyperInfo info{.name = "max_grad_norm",
                              .key = "max_grad_norm",
                              .index = -1,
                              .count = 1,
                              .label = "max_grad_norm value",
                              .range = Range::kPositive,
                              .scheduled = false,
                              .optional = true,
                              .interval = interval_of(Range::kPositive)};
  return info;
}

}  // namespace

GroupReader::GroupReader(const Algorithm& algorithm) : algorithm_(algorithm) {
  const auto option = [this](const char* name) {
    PyObject* const key = interned(name);
    const std::size_t found = std::ranges::find(options_, key, &Option::key) - options_.begin();
    if (found == options_.size()) options_.push_back({key});
    return found;
  };
  for (const char* name : {"maximize", "skip_nonfinite", "stochastic_rounding", "state_rounding"})
    options_[option(name)].is_plain = false;  // in the order of Switch
  for (const HyperInfo& hyper : algorithm_.hypers) {
    const std::string_view name = hyper.name;
    const int place = static_cast<int>(slots_.size());
    if (name == "lr") lr_ = place;
    if (name == "reference_lr") reference_lr_ = place;
    if (name == "decouple_lr") decouple_lr_ = place;
    slots_.push_back({hyper, option(hyper.key)});
  }
  slots_.push_back({max_grad_norm(), option(max_grad_norm().key)});
  for (const State& state : algorithm_.states) {
    state_options_.push_back(state.only_if == nullptr ? -1
                                                      : static_cast<int>(option(state.only_if)));
    if (state_options_.back() >= 0) options_[state_options_.back()].is_plain = false;
  }
}

// Marks the item that holds an option under an equal string, as a key is that was unpickled.
// Returns false where there is none.
bool GroupReader::mark_equal_key(CachedGroup& cached, std::size_t option, PyObject* value) const {
  const auto found = std::ranges::find_if(cached.items, [&](const Item& item) {
    PyObject* const key = item.key.ptr();
    return PyUnicode_CheckExact(key) && PyUnicode_Compare(key, options_[option].key) == 0;
  });
  if (found == cached.items.end()) return false;
  found->option = static_cast<int>(option);
  found->value = py::reinterpret_borrow<py::object>(value);
  return true;
}

// Takes what a group's dict holds: its keys in their order, and the values of options.
GroupReader::Values GroupReader::take(PyObject* dict, CachedGroup& cached) const {
  Values values(options_.size());
  PyObject *key, *value;
  Py_ssize_t position = 0;
  while (PyDict_Next(dict, &position, &key, &value) != 0) {
    const std::size_t option = std::ranges::find(options_, key, &Option::key) - options_.begin();
    Item& item =
        cached.items.emplace_back(py::reinterpret_borrow<py::object>(key), py::object(), kNoOption);
    if (option == options_.size()) continue;
    item.option = static_cast<int>(option);
    values[option] = item.value = py::reinterpret_borrow<py::object>(value);
  }
  cached.is_constant = true;
  for (std::size_t option = 0; option < options_.size(); ++option) {
    py::object& taken = values[option];
    if (!taken) {
      taken = py::reinterpret_borrow<py::object>(get(dict, options_[option].key));
      if (taken) cached.is_constant &= mark_equal_key(cached, option, taken.ptr());
    }
    if (taken) cached.is_constant &= is_constant(taken.ptr());
  }
  return values;
}

Group GroupReader::read_group(PyObject* dict, int index, const Values& values) const {
  Group read{.algorithm = &algorithm_,
             .maximize = is_set(values[kMaximize].ptr()),
             .skip_nonfinite = is_set(values[kSkipNonfinite].ptr()),
             .rounds_weights_randomly = is_set(values[kStochasticRounding].ptr()),
             .rounds_states_randomly = is_stochastic(values[kStateRounding].ptr(), index)};
  TORCH_CHECK_VALUE(
      algorithm_.counts_steps || !read.rounds_randomly(), algorithm_.name, " keeps ",
      "no count of its steps, without which stochastic rounding would repeat itself (",
      "parameter group ", index, "); take a class that counts them, as onepass.Momentum");
  for (std::size_t k = 0; k < slots_.size(); ++k) {
    const auto& [hyper, option] = slots_[k];
    PyObject* const value = values[option].ptr();
    if (read_plain(value, hyper, number(read, k))) continue;
    if (hyper.optional && (value == nullptr || (!is_rules(k) && value == Py_None))) continue;
    const py::object item = option_of(value, hyper, index);
    const bool on_device = is_rules(k) && is_on_device(item);
    if (on_device) {
      const OptionName name{hyper.key, hyper.index, index};
      const at::Tensor& number = THPVariable_Unpack(item.ptr());
      cuda::check_number_on_device(number, name.text(), " (" + name.where() + ")");
      read.device_hypers.emplace_back(k, number);
    }
    if (!on_device || steps_on_cpu(dict)) number(read, k) = read_hyper(item, hyper, index);
  }
  for (std::size_t k = 0; k < state_options_.size(); ++k)
    if (const int option = state_options_[k]; option < 0 || is_set(values[option].ptr()))
      read.add_state(k);
  return read;
}

// Reads again what has changed in a group: nearly always nothing, or the rate. Returns false where
// that takes more than a look at plain numbers under the same keys. No Python code runs.
bool GroupReader::update(PyObject* dict, CachedGroup& cached, Group& group) const {
  PyObject *key, *value;
  Py_ssize_t position = 0;
  for (Item& item : cached.items) {
    if (PyDict_Next(dict, &position, &key, &value) == 0 || key != item.key.ptr()) return false;
    if (item.option != kNoOption && value != item.value.ptr() && !update_option(item, value, group))
      return false;
  }
  return PyDict_Next(dict, &position, &key, &value) == 0;
}

bool GroupReader::update_option(Item& item, PyObject* value, Group& group) const {
  if (!options_[item.option].is_plain || !is_constant(value)) return false;
  for (std::size_t k = 0; k < slots_.size(); ++k)
    if (slots_[k].option == static_cast<std::size_t>(item.option) &&
        !read_plain(value, slots_[k].hyper, number(group, k)))
      return false;
  item.value = py::reinterpret_borrow<py::object>(value);
  return true;
}

void GroupReader::read_into(std::size_t place, PyObject* groups, int index) {
  const auto dict = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(groups, index));
  TORCH_CHECK_TYPE(PyDict_Check(dict.ptr()), "parameter group ", index, " must be a dict");
  if (cached_[place].is_constant && update(dict.ptr(), cached_[place], groups_[place])) return;
  cached_[place] = {};
  groups_[place] = {.algorithm = &algorithm_};
  CachedGroup cached;
  const Values values = take(dict.ptr(), cached);
  groups_[place] = read_group(dict.ptr(), index, values);
  if (cached.is_constant) cached_[place] = std::move(cached);  // else it would keep tensors alive
}

std::span<const Group> GroupReader::read(PyObject* groups, int first) {
  int count = 0;
  offset_ = 0;
  for (; count < PyList_GET_SIZE(groups); ++count) {
    if (static_cast<std::size_t>(count) == groups_.size()) {
      groups_.emplace_back();
      cached_.emplace_back();
    }
    if (count < first) {
      cached_[count] = {};
      groups_[count] = {.algorithm = &algorithm_};
    } else {
      read_into(count, groups, count);
    }
  }
  groups_.resize(count);
  cached_.resize(count);
  return groups_;
}

std::span<const Group> GroupReader::read_one(PyObject* groups, int index) {
  groups_.resize(1);
  cached_.resize(1);
  offset_ = index;
  read_into(0, groups, index);
  return groups_;
}

void GroupReader::check_arguments(PyObject* arguments, bool ranges) const {
  for (const auto& [hyper, option] : slots_) {
    PyObject* const value = get(arguments, options_[option].key);
    if (value == nullptr || hyper.range == Range::kFlag) continue;
    if (&hyper == &max_grad_norm() && value == Py_None) continue;
    const OptionName name{hyper.key, hyper.index, OptionName::kArgument};
    const py::object item = option_of(value, hyper, name.group);
    if (is_on_device(item)) continue;  // its range is not waited for
    const double number = number_of(item.ptr(), name);
    if (ranges) check_range(number, item, hyper, name);
  }
}

double& GroupReader::number(Group& group, std::size_t slot) const {
  return is_rules(slot) ? group.hypers[slot] : group.max_grad_norm;
}

bool GroupReader::knows_on_host(const Group& group, int hyper) const {
  const auto is_it = [hyper](const auto& number) { return number.first == hyper; };
  return std::ranges::none_of(group.device_hypers, is_it);
}

void GroupReader::raise_reference_rates(PyObject* groups) {
  if (decouple_lr_ < 0) return;
  for (std::size_t k = 0; k < groups_.size(); ++k) {
    const Group& group = groups_[k];
    const double lr = group.hypers[lr_];
    if (group.hypers[decouple_lr_] == 0.0 || lr <= group.hypers[reference_lr_]) continue;
    if (!knows_on_host(group, lr_) || !knows_on_host(group, reference_lr_)) continue;
    PyObject* const dict = PyList_GET_ITEM(groups, offset_ + static_cast<Py_ssize_t>(k));
    PyObject* const key = options_[slots_[reference_lr_].option].key;
    replaced_.push_back(py::reinterpret_borrow<py::object>(get(dict, key)));
    if (PyDict_SetItem(dict, key, py::float_(lr).ptr()) != 0) throw py::error_already_set();
  }
}

void GroupReader::let_go() {
  for (Group& group : groups_) group.device_hypers.clear();
  replaced_.clear();
}

}  // namespace onepass
