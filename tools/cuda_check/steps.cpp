// Prints what the kernels must compute: for every variant of every rule a step of a few elements,
// as the memory that the kernels find, and each number that must be in it afterwards.
//
// The numbers come from the rule's own header, compiled here for the CPU and for a type that writes
// down the formula it is computed by. So a kernel is held to the same operations in the same order,
// and not merely to a result, which a second arithmetic might share for some inputs.
// clang-format off: before the rules, which must find its std::sqrt
#include "traced.h"
// clang-format on

#include <cxxabi.h>

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <random>
#include <string_view>
#include <typeinfo>

#include "cuda/device_layout.h"
#include "rules/variants.h"

namespace onepass {
namespace {

using cuda::HostOrDeviceScalar;
using cuda::Launch;

constexpr int kElements = 5;  // a vector and a rest, of float and of double
constexpr double kSquares[] = {2.0, 3.0};

// Circumstances that make rules take one way or the other.
struct Scene {
  double step;
  bool has_flags, has_decay, is_scaled, is_strided, maximize;
  double nearly_one;  // betas
};
constexpr Scene kScenes[] = {
    {1, false, false, false, false, false, 0.6},
    {7, true, true, true, false, true, 0.3},
    {100, false, true, false, true, false, 0.7},
};

template <class Rule>
double hyper_in(const Scene& scene, const Hyper<Rule>& hyper, int index) {
  const double different = 0.01 * index;
  if (hyper.range == Range::kFlag) return scene.has_flags ? 1.0 : 0.0;
  if (hyper.range == Range::kAboveOne) return 1.2;
  if (std::string_view(hyper.key) == "step") return scene.step;
  if (std::string_view(hyper.key) == "weight_decay" && !scene.has_decay) return 0.0;
  return scene.nearly_one + different;
}

template <class Type>
std::string name_of() {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(typeid(Type).name(), nullptr, nullptr, &status), &std::free);
  return name.get();
}

std::string hex(const void* data, std::size_t size) {
  std::string text(2 * size, ' ');
  for (std::size_t k = 0; k < size; ++k)
    std::snprintf(&text[2 * k], 3, "%02x", static_cast<const unsigned char*>(data)[k]);
  return text;
}

// A list in JSON of pieces of memory: [address, bytes], and the formula where there is one.
class Pieces {
 public:
  void add(const void* memory, std::size_t size) { add_bytes(memory, memory, size, ""); }

  // Where another number than the one that is there now must be.
  template <class Wanted>
  void add(const void* memory, std::size_t size, Wanted wanted, const std::string& formula = "") {
    add_bytes(memory, &wanted, size, formula);
  }

  std::string text() const { return "[" + text_ + "]"; }

 private:
  void add_bytes(const void* memory, const void* bytes, std::size_t size,
                 const std::string& formula) {
    if (!text_.empty()) text_ += ", ";
    text_ += "[" + std::to_string(reinterpret_cast<std::size_t>(memory)) + ", \"" +
             hex(bytes, size) + "\", \"" + formula + "\"]";
  }

  std::string text_;
};

template <class Rule>
std::string label_of(unsigned present) {
  std::string label = Rule::kName;
  for (const State& state : Rule::kStates) {
    if (state.only_if != nullptr && (present & 1) != 0) label += std::string(" ") + state.only_if;
    present >>= 1;
  }
  return present != 0 ? label + " " + std::string(Rule::kOption) : label;
}

// One parameter as the kernels find it, and what must become of it.
template <class Rule, unsigned kVariantBits, class Real>
class Step {
 public:
  explicit Step(const Scene& scene) : scene_(scene) {
    int index = 0;
    for (const auto& hyper : Rule::kHypers) {
      hypers_[index].value = rule_.*(hyper.value) = hyper_in(scene, hyper, index);
      ++index;
    }
    // A parameter and a gradient have signs, and some states have none.
    std::mt19937 random(1);
    std::uniform_real_distribution<double> between(0.1, 1.0);
    for (int k = 0; k < kOperands; ++k)
      for (int i = 0; i < kElements; ++i)
        *element(k, i) = Real(between(random) * (k < 2 && random() % 2 == 0 ? -1 : 1));
    describe_task();
    if (scene.is_scaled) {
      launch_.grad_scale = &grad_scale_;
      launch_.found_inf = &found_inf_;
    }
  }

  // For `prepare`: which coefficients it must compute, and what the parameter's numbers become.
  void print_preparation() {
    describe_memory();
    auto* const update = construct<Update<Real>>(coefficients_, numbers_);
    Pieces results;
    results.add(coefficients_, sizeof *update);
    results.add(&step_, sizeof step_, static_cast<float>(scene_.step));
    for (std::size_t k = 0; k < kNumbers; ++k)
      results.add(&stored_[k], sizeof stored_[k], static_cast<float>(numbers_[k].value));
    print("prepare<" + name_of<Rule>() + ", " + std::to_string(kVariantBits) + "u, " + kReal + ">",
          results);
  }

  // For `sweep`: by which formulas it must compute the elements.
  void print_sweep() {
    StateNumber numbers[] = {numbers_[0], numbers_[1]};
    finish(construct<Update<Real>>(coefficients_, numbers));
    describe_memory();
    const std::unique_ptr<Update<Traced<Real>>> rule(
        construct<Update<Traced<Real>>>(operator new(sizeof(Update<Traced<Real>>)), numbers_));
    finish(rule.get());
    Pieces results;
    for (int i = 0; i < kElements; ++i) add_element(*rule, i, results);
    print("sweep<" + name_of<Update<Real>>() + ", " + std::to_string(kOperands - 2) + ", " + kReal +
              ">",
          results);
  }

 private:
  template <class Arithmetic>
  using Update = typename Rule::template Update<Arithmetic, kVariantBits>;
  static constexpr int kOperands = 2 + states_of<Rule, kVariantBits>();
  static constexpr std::size_t kNumbers = std::size(Rule::kNumbers);
  static constexpr bool kIsDouble = sizeof(Real) == 8;
  static constexpr const char* kReal = kIsDouble ? "double" : "float";

  Real* element(int operand, int i) {
    return &operands_[operand][i * (scene_.is_strided ? operand + 1 : 1)];
  }

  static HostOrDeviceScalar on_device(float* number) {
    HostOrDeviceScalar scalar{.kind = HostOrDeviceScalar::Kind::kFloat32};
    scalar.data = number;
    return scalar;
  }

  void describe_task() {
    for (int k = 0; k < kOperands; ++k) {
      task_.operands[k] = operands_[k];
      task_.types[k] = kIsDouble ? Format::kFloat64 : Format::kFloat32;
      layout_[1 + k] = k + 1;
    }
    task_.size = layout_[0] = kElements;
    task_.layout = scene_.is_strided ? 0 : -1;
    task_.dims = scene_.is_strided ? 1 : 0;
    task_.aligned = !scene_.is_strided;
    task_.maximize = scene_.maximize;
    task_.step = on_device(&step_);
    for (std::size_t k = 0; k < kNumbers; ++k) task_.numbers[k] = on_device(&stored_[k]);
  }

  template <class Made>
  Made* construct(void* place, StateNumber* numbers) {
    if constexpr (kNumbers == 0) {
      return new (place) Made(rule_, scene_.step);
    } else {
      return new (place) Made(rule_, scene_.step, numbers);
    }
  }

  template <class Made>
  static void finish(Made* update) {
    StateNumber numbers[] = {kNumber, kNumber};
    if constexpr (Rule::squares(kVariantBits) > 0) update->finish(kSquares, kElements, numbers);
  }

  void add_element(const Update<Traced<Real>>& rule, int i, Pieces& results) {
    const auto add = [&](int operand, const Traced<Real>& x) {
      results.add(element(operand, i), sizeof x.value, x.value, x.formula);
    };
    Traced<Real> grad(*element(1, i)), states[kMaxStates];
    for (int k = 2; k < kOperands; ++k) states[k - 2] = Traced<Real>(*element(k, i));
    if (scene_.is_scaled) add(1, grad = grad / Traced<Real>(grad_scale_));
    grad = Traced<Real>(scene_.maximize ? -1 : 1) * grad;
    add(0, rule(Traced<Real>(*element(0, i)), grad, states));
    for (int k = 2; k < kOperands; ++k) add(k, states[k - 2]);
  }

  // All that a kernel may read.
  void describe_memory() {
    memory_ = {};
    memory_.add(&task_, sizeof task_);
    memory_.add(coefficients_, sizeof coefficients_);
    memory_.add(hypers_, sizeof hypers_);
    memory_.add(layout_, sizeof layout_);
    memory_.add(&chunk_, sizeof chunk_);
    memory_.add(&step_, sizeof step_);
    memory_.add(&grad_scale_, sizeof grad_scale_);
    memory_.add(&found_inf_, sizeof found_inf_);
    memory_.add(stored_, sizeof stored_);
    for (int k = 0; k < kOperands; ++k)
      for (int i = 0; i < kElements; ++i) memory_.add(element(k, i), sizeof(Real));
  }

  void print(const std::string& kernel, const Pieces& results) const {
    std::printf("{\"kernel\": \"%s\", \"launch\": \"%s\",\n \"memory\": %s,\n \"results\": %s}\n",
                kernel.c_str(), hex(&launch_, sizeof launch_).c_str(), memory_.text().c_str(),
                results.text().c_str());
  }

  static constexpr StateNumber kNumber{0.5, true};
  const Scene scene_;
  Rule rule_{};
  Pieces memory_;
  alignas(16) Real operands_[kOperands][kElements * 8] = {};
  alignas(16) std::byte coefficients_[kCoefficientBytes] = {};
  HostOrDeviceScalar hypers_[kMaxHypers];
  std::int64_t layout_[1 + kMaxOperands] = {};
  std::uint32_t chunk_ = 0;
  float step_ = static_cast<float>(scene_.step - 1.0);
  float grad_scale_ = 8.0f, found_inf_ = 0.0f, stored_[kMaxNumbers] = {0.5f, 0.5f};
  StateNumber numbers_[kMaxNumbers] = {kNumber, kNumber};
  cuda::DeviceTask task_{};
  Launch launch_{.tasks = &task_,
                 .coefficients = coefficients_,
                 .hypers = hypers_,
                 .layouts = layout_,
                 .chunks = &chunk_,
                 .block_sums = nullptr,
                 .grad_scale = nullptr,
                 .found_inf = nullptr,
                 .known_grad_scale = 0.0f,
                 .task_count = 1,
                 .chunk_size = cuda::kSmallestChunk};
};

template <class Family>
void print_family() {
  const auto print_rule = []<class Rule>(RuleType<Rule>) {
    for_each_variant<Rule>([]<unsigned kVariantBits>(VariantBits<kVariantBits>) {
      std::printf("{\"class\": \"%s\", \"present\": %u, \"label\": \"%s\"}\n",
                  name_of<Rule>().c_str(), kVariantBits, label_of<Rule>(kVariantBits).c_str());
      for (const Scene& scene : kScenes) {
        Step<Rule, kVariantBits, float>(scene).print_preparation();
        Step<Rule, kVariantBits, double>(scene).print_preparation();
        Step<Rule, kVariantBits, float>(scene).print_sweep();
        Step<Rule, kVariantBits, double>(scene).print_sweep();
      }
    });
  };
  for_each_rule(print_rule, Family{});
}

}  // namespace
}  // namespace onepass

int main() {
  []<class... Family>(onepass::FamilyList<Family...>) {
    (onepass::print_family<Family>(), ...);
  }(onepass::Families{});
}
