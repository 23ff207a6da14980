"""The table of faults that are planted: slips that optimizers have had, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onepass import _C
from onepass.rules import RULES

ADAM, RULE, FLOATS = "csrc/rules/adam.h", "csrc/rules/rule.h", "csrc/storage/floats.h"
LOOP, LINE, TILE = "csrc/sweep/loop.h", "csrc/sweep/line.h", "csrc/sweep/tile.h"
SWEEP, SUMS = "csrc/sweep/sweep.cpp", "csrc/sweep/sums.cpp"
TASK, CHECKS, PLAN = "csrc/plan_task.cpp", "csrc/plan_validate.cpp", "csrc/plan.cpp"
COMMIT = "csrc/plan_commit.cpp"
OPERAND, RANGES, STEP = "csrc/operand.cpp", "csrc/algorithm.cpp", "csrc/python_step.cpp"
SPARSE = "csrc/sparse.cpp"
OPTIMIZER, STATE = "python/onepass/optimizer.py", "python/onepass/state.py"


def rows_of(rule: str) -> str:
    """Returns the unit that holds the loops of a rule (csrc/rows/rows.h)."""
    names = [row["name"] for row in _C.rules()]
    parts = len(list((Path(__file__).parents[1] / "csrc/rows").glob("part*.cpp")))
    return f"csrc/rows/part{parts * names.index(rule) // len(names)}.cpp"


# Headers whose code is all inlined need only the units that hold their callers; of what all rules
# share, the callers of Adam and AdamW, which is what the tests below look at.
ADAMS = tuple({rows_of(rule): None for rule in ("adam", "adamw")})
USERS = {
    **{f"csrc/rules/{rule}.h": (rows_of(rule),) for rule in (*RULES, "ema")},
    ADAM: ADAMS,
    RULE: ADAMS,
    LOOP: ADAMS,
    FLOATS: (*ADAMS, SWEEP, SUMS),
    LINE: (SWEEP, SUMS),
    TILE: (SWEEP, SUMS),
    "csrc/sweep/parallel.h": (SWEEP, SUMS),
    "csrc/operand.h": (CHECKS,),
    "csrc/algorithm.h": ("csrc/python_options.cpp",),
    "csrc/python_state.h": ("csrc/python_step.cpp",),
}


@dataclass(frozen=True)
class Fault:
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # those that must notice
    crashes: bool = False  # memory is left: the process may end before pytest can say so

    def __str__(self) -> str:
        return self.name

    @property
    def changes(self) -> tuple[Path, ...]:
        """The units to compile anew."""
        if not self.file.startswith("csrc/"):
            return ()
        return tuple(map(Path, USERS.get(self.file, (self.file,))))


def tests(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/test_{file}.py::test_{name}" for name in names)


CATCH_UP = tests("sparse_decay", "after_catch_up_adamw_is_dense_adamw")
STATE_REPLACED = tests("never_stale", "what_changes_between_steps_is_seen[step replaced-Adam]")
STATES_OFF = tests(
    "never_stale",
    "what_changes_between_steps_is_seen[centered-RMSprop]",
    "what_changes_between_steps_is_seen[momentum-RMSprop]",
)
READ_ANEW = tests("never_stale", "options_are_read_anew_however_they_change")
CLAIMS = tests(
    "claims",
    "claim_2_without_memory_adam_steps_by_the_sign",
    "claim_3_the_first_step_is_the_same_whatever_the_betas",
    "claim_3_without_bias_correction_it_would_be_three_times_as_long",
    "claim_4_eps_halves_the_step_of_a_gradient_of_its_size",
    "claim_15_decoupled_decay_is_a_factor_whatever_the_gradients",
    "claim_18_amsgrad_goes_to_the_best_point_where_adam_goes_to_the_worst",
)
OURS = tests(
    "algorithms",
    "decouple_lr_decays_by_the_schedule_and_not_by_the_size_of_lr",
    "eps_root_alone_is_the_textbook_form_with_eps_inside_the_root",
)
CLAIM_19 = tests("claims", "claim_19_radam_rectifies_as_the_paper_for_ten_thousand_steps")
STEPS = "c1_every_step_is_the_for_loop_step_of_torch_in_float64"
PARITY = tests("parity", f"{STEPS}[AdamW]")
SGD_STEPS = tests("parity", f"{STEPS}[SGD]")
NADAM_STEPS = tests("parity", f"{STEPS}[NAdam]")
CORRECTION = tests("steps", "c11_the_bias_correction_is_exact_at_any_count[Adam]")
DEFAULTS = tests("steps", "state_dtypes_are_torchs_under_any_default_dtype[torch.float64-Adam]")
ROUNDING = tests("special_values", "storing_rounds_to_the_nearest_and_ties_to_even")
SURVIVAL = tests("special_values", "every_16_bit_number_survives_a_step_of_nothing")
SPECIAL = tests(
    "special_values",
    "c15_nan_inf_and_denormals_go_as_in_the_for_loop_of_torch[torch.float32-Adam]",
)
ORDERS = tests("sizes", "c14_every_order_of_unequal_sizes[Adam]")
SHARES = tests("sizes", "c14_sizes_around_the_thresholds_of_the_sweep[2-Adam]")
LAYOUTS = tests(
    "layouts",
    "new_states_lie_as_those_of_torch[Adam]",
    "c2_a_gradient_and_states_between_the_elements_of_their_parameter[Adam]",
    "c2_any_layout_of_any_operand_gives_the_contiguous_bits[torch.float32-Adam]",
)
MIXED = tests("mixed_dtypes", "each_state_may_have_a_type_of_its_own[Adam]")
COMPLEX = tests("mixed_dtypes", "c18_complex_numbers_step_as_pairs_of_real_numbers[Adam]")
UNTOUCHED = tests("arguments_untouched", "c12_gradients_are_never_written[Adam]")
SKIPPED = tests("amp", "c10_a_skipped_step_changes_nothing[0-Adam]")
UNSCALED = tests("amp", "c10_the_unscaled_gradient_is_written_back_as_torch_divides")
ENOUGH = tests("amp", "loading_decides_who_scales", "a_group_that_asks_for_fused_is_enough")
VERSIONS = tests("autograd_rules", "c13_every_written_tensor_counts_a_version")
TWO_WAYS = tests(
    "torch_defects", "p14_a_first_step_inside_inference_mode_does_not_spoil_those_outside"
)
EXPANDED = tests("torch_defects", "p3_an_expanded_parameter_is_refused")
DTYPES = tests("mixed_dtypes", "states_have_the_dtype_that_was_asked_for[Adam]")
RELOAD = tests("torch_defects", "p12_float32_moments_of_a_16_bit_parameter_survive_a_reload")
REFUSED = tests("exception_safety", "c3_a_refused_step_changes_nothing[Adam]")
GROUP = tests("exception_safety", "c3_a_refused_group_is_not_added[Adam]")
HYPERS = tests("hyperparameters", "c23_the_step_refuses[native-Adam]")
OPTIONS = tests("torch_defects", "p11_wrong_options_that_are_loaded_or_set_are_refused")
GROUPS = tests("drop_in", "every_group_keeps_its_own_settings")
BEHIND = tests("torch_defects", "p7_a_bad_state_behind_a_good_one_leaves_the_good_one_alone")
GAP_MEAN = tests("gaps", "a_mean_without_memory_is_the_gradient_whatever_it_was_before")
GAP_TYPES = tests("gaps", "neighbours_of_other_types_are_stepped_as_if_alone[Adam]")
GAP_HOLD = tests("gaps", "what_another_thread_lets_go_of_during_a_step_stays_until_its_end")
ALIASES = tests("copies", "loaded_state_shares_no_memory_with_its_source")
NOT_LOADED = tests("loading_hostile", "c5_a_wrong_entry_is_refused_or_right[torch.float32-Adam]")
IN_ORDER = tests("gaps", "large_parameters_that_share_memory_are_stepped_in_order[Adam-at first]")
NEVER_STALE = tests("gaps", "large_parameters_that_share_memory_are_stepped_in_order[Adam-later]")
READ_AFTER = tests("gaps", "a_large_gradient_that_a_step_writes_is_read_after_it[Adam-parameter]")
STATES_SHARED = tests("gaps", "a_large_gradient_that_a_step_writes_is_read_after_it[Adam-state]")
THE_OP = tests(
    "ops", "the_op_skips_where_found_inf_is_set", "the_op_does_what_the_step_does_bit_for_bit"
)

FORMULAS = (
    Fault("the count is off by one in a correction", ADAM,
          "bias_correction1 = 1.0 - power(h.beta1, t);",
          "bias_correction1 = 1.0 - power(h.beta1, t + 1.0);", CLAIMS),
    Fault("a correction is missing", ADAM, "bias_correction2 = 1.0 - power(h.beta2, t);",
          "bias_correction2 = 1.0;", CLAIMS),
    Fault("a correction is rounded to float", ADAM, "bias_correction2 = 1.0 - power(h.beta2, t);",
          "bias_correction2 = 1.0f - static_cast<float>(power(h.beta2, t));", CORRECTION),
    Fault("the wrong beta", ADAM, "one_minus_beta2 = Real(1.0 - h.beta2);",
          "one_minus_beta2 = Real(1.0 - h.beta1);", CLAIMS),
    Fault("1 - beta2 in float", ADAM, "one_minus_beta2 = Real(1.0 - h.beta2);",
          "one_minus_beta2 = Real(1) - Real(h.beta2);", PARITY),
    Fault("the root twice", ADAM, "std::sqrt(v_used + eps_root) *",
          "std::sqrt(std::sqrt(v_used + eps_root)) *", CLAIMS),
    Fault("eps inside the root", ADAM, "std::sqrt(v_used + eps_root) * v_scale + eps;",
          "std::sqrt(v_used + eps_root + eps) * v_scale;", CLAIMS),
    Fault("eps_root is not corrected", ADAM, "Real(h.eps_root * bias_correction2)",
          "Real(h.eps_root)", OURS),
    Fault("AMSGrad's maximum is not written back", ADAM, "v_used = states[2] = maximum(",
          "v_used = maximum(", CLAIMS),
    Fault("AMSGrad's maximum forgets NaN", RULE, "(a > b || a != a) ? a : b", "a > b ? a : b",
          SPECIAL),
    Fault("coupled decay for decoupled", RULE, "return h.decoupled_weight_decay != 0.0;",
          "return false;", CLAIMS),
    Fault("decay after the update", ADAM, "return p * keep - step_size * m / denominator;",
          "return (p - step_size * m / denominator) * keep;", PARITY),
    Fault("decay that ignores the schedule", RULE,
          "h.weight_decay * (h.lr / largest)", "h.weight_decay * h.lr", OURS),
    Fault("states swapped", ADAM, "&m = states[0], &v = states[1];",
          "&m = states[1], &v = states[0];", PARITY),
    Fault("a mean that is not exact at its end", RULE,
          "weight < Real(0.5) ? from + weight * difference",
          "weight < Real(2) ? from + weight * difference", GAP_MEAN),
    Fault("powers of a count that wraps", RULE, "for (auto bits = whole; bits != 0;",
          "for (auto bits = static_cast<unsigned short>(whole); bits != 0;", CORRECTION),
    Fault("maximize ignored", LOOP, "sign * Real(decode(grad[i]))", "Real(decode(grad[i]))",
          PARITY),
    Fault("the gradient is written", LOOP, "encode(updated, param[i]);",
          "encode(updated, param[i]), const_cast<Grad*>(grad)[i] = {};", UNTOUCHED),
    Fault("a loop that drops the tail", LOOP,
          "i < stretch.size; ++i) {\n    Real state[kMaxStates];",
          "i < (stretch.size | 3) - 3; ++i) {\n    Real state[kMaxStates];", ORDERS),
)  # fmt: skip

MEMORY = (
    Fault("bfloat16 is cut off", FLOATS, "(bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;",
          "bits >> 16;", ROUNDING),
    Fault("bfloat16 ties go up", FLOATS, "(bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;",
          "(bits + 0x8000u) >> 16;", ROUNDING),
    Fault("float16 subnormals are flushed when loaded", FLOATS,
          "magnitude < (1u << 23) ? subnormal : normal;", "magnitude < (1u << 23) ? 0u : normal;",
          SURVIVAL),
    Fault("float16 subnormals are flushed when stored", FLOATS,
          "magnitude < (113u << 23) ? subnormal : normal;",
          "magnitude < (113u << 23) ? 0u : normal;", SURVIVAL),
    Fault("an empty tensor ends the list", LINE, "if (begin < stop) visit(",
          "if (begin >= stop) return; visit(", ORDERS),
    Fault("the last tensor is skipped", SWEEP, "total = ends.empty() ? 0 : ends.back();",
          "total = ends.size() < 2 ? ends.back() : ends[ends.size() - 2];", ORDERS),
    Fault("every thread starts at the tensor's beginning", SWEEP,
          "sweep_task(tasks[k], from, to);", "sweep_task(tasks[k], 0 * from, to);", SHARES),
    Fault("states are not moved on with the parameter", SWEEP,
          "stretch.states[k] = element(task.states[k], section.begin);",
          "stretch.states[k] = element(task.states[k], 0);", SHARES),
    Fault("only whole tiles", SWEEP,
          "first < section.end; first += kTile)", "first + kTile <= section.end; first += kTile)",
          LAYOUTS),
    Fault("strides ignored", TILE, "return strides_[last_]; }", "return 1; }", LAYOUTS),
    Fault("the unscaled gradient is not written back", SWEEP,
          "grad.store(task, task.grad, first, size);", "", UNSCALED),
    Fault("other strides are taken for the parameter's", TASK,
          "a.stride(dim) != b.stride(dim)) return false;",
          "a.stride(dim) != b.stride(dim)) return true;", LAYOUTS),
    Fault("the loop of the task before for a gradient of another type", TASK,
          "a.param.type == b.param.type && a.grad.type == b.grad.type;",
          "a.param.type == b.param.type;", GAP_TYPES),
    Fault("only the real parts", TASK, "const int pair = tensors.param->is_complex() ? 2 : 1;",
          "const int pair = 1;", COMPLEX),
    Fault("float64 states are swept in float32", TASK,
          "wide |= task.states[k].type == Float::kFloat64;", "wide |= false;", MIXED),
    Fault("states are not among what is written", PLAN,
          "operand < 2 + tasks_[k].state_count; ++operand)", "operand < 2; ++operand)",
          STATES_SHARED),
    Fault("maximize of the first group for all", TASK, "task.maximize = group.maximize;",
          "task.maximize = groups_.front().maximize;", GROUPS),
    Fault("hyper-parameters of the first group for all", COMMIT,
          "= groups_[entries_[k].group];\n  const Float arithmetic",
          "= groups_[0];\n  const Float arithmetic", GROUPS),
    Fault("a kept task keeps its gradient", CHECKS,
          "task.grad.data = const_cast<std::byte*>(spans[1].begin);", "", PARITY),
    Fault("a list of options is taken for what it was", "csrc/python_options.cpp",
          "  if (PyTuple_CheckExact(object)) {", "  if (PyList_Check(object)) return true;\n"
          "  if (PyTuple_CheckExact(object)) {", READ_ANEW),
    Fault("a group is taken for what it was", "csrc/python_options.cpp",
          "version != 0 && version == known.version", "version != 0", READ_ANEW),
    Fault("the state of a parameter is taken for what it was", "csrc/python_state.h",
          "place.version == version_of(place.state))", "place.version != 0)", STATE_REPLACED,
          crashes=True),
    Fault("the states are those of the options before", "csrc/python_state.h",
          "place.present == group.present &&", "place.present != 0 &&", STATES_OFF),
    Fault("a damped first momentum", "csrc/rules/sgd.h", "first ? 1.0 : 1.0 - h.dampening",
          "1.0 - h.dampening", SGD_STEPS),
    Fault("every momentum is the first", STEP,
          "tensors.is_new = found != new_.end();", "tensors.is_new = true;", SGD_STEPS,
          crashes=True),
    Fault("a product wider than it is stored", "csrc/rules/nadam.h", "product.rounded(mu)", "mu",
          NADAM_STEPS),
    Fault("rectified too early", "csrc/rules/radam.h", "rho > 5.0 && t > 5.0", "rho > 4.0",
          CLAIM_19),
)  # fmt: skip

PROMISES = (
    Fault("no version of the parameter is counted", COMMIT,
          "tensors.param->unsafeGetTensorImpl()->bump_version();", "", VERSIONS),
    Fault("no version of the states is counted", COMMIT,
          "tensors.states[state]->unsafeGetTensorImpl()->bump_version();", "(void)state;",
          VERSIONS),
    Fault("overlapping parameters are swept at once", PLAN, "in_order_ = writes_overlap_;",
          "in_order_ = false;", IN_ORDER),
    Fault("gradients that are parameters are swept at once", PLAN, "  return !fits();",
          "return false;", READ_AFTER),
    Fault("gradients are not held while others run", COMMIT,
          "held_.push_back(tensors.grad->storage());", "", GAP_HOLD),
    Fault("what shared no memory is taken never to", PLAN, "if (writes_changed_) {",
          "if (written_sorted_.empty()) {", NEVER_STALE),
    Fault("steps are counted before the check", CHECKS,
          "const std::size_t count = entries_.size();",
          "auto count = entries_.size(); for (auto& e : entries_) if (e.tensors.step) "
          "count_step(*e.tensors.step);",
          BEHIND),
    Fault("a parameter may share memory with its states", "csrc/operand.h",
          "begin < other.end && other.begin < end;", "begin == other.begin;", REFUSED),
    Fault("elements may share memory", OPERAND, "if (tensor.stride(dim) <= reach) return false;",
          "if (tensor.stride(dim) <= reach) return true;", EXPANDED),
    Fault("any shape of as many elements", OPERAND,
          "tensor.sizes() == param.sizes(), subject.text(), \" has shape",
          "tensor.numel() == param.numel(), subject.text(), \" has shape", REFUSED),
    Fault("the size of the storage is not looked at", OPERAND,
          "offset + extent <= storage.nbytes(),", "offset <= offset + extent,", REFUSED,
          crashes=True),
    Fault("negative steps", "csrc/operand.h", "*count >= 0.0f && *count < kLast",
          "*count < kLast", REFUSED),
    Fault("inference tensors anywhere", OPERAND,
          "!tensor.is_inference() || c10::InferenceMode::is_enabled()", "true", REFUSED),
    Fault("a beta of 1", RANGES, "{0.0, 1.0 - Limits::epsilon() / 2.0, ", "{0.0, 1.0, ", HYPERS),
    Fault("NaN is in every range", "csrc/algorithm.h", "smallest <= value && value <= largest",
          "!(value < smallest || value > largest)", OPTIONS),
    Fault("LAMB measures its gradient", "csrc/rules/lamb.h", "terms[1] = direction(p, g, states);",
          "terms[1] = g;", tests("parity", f"{STEPS}[LAMB]")),
    Fault("cautious steps go against their gradient", ADAM, "(agree(m, g) ? step_size * m",
          "(true ? step_size * m", tests("parity", f"{STEPS}[Adam]")),
    Fault("sums over scaled gradients", SUMS,
          "grad.data[i] / static_cast<Real>(task.grad_scale);", "grad.data[i];",
          tests("amp", "c10_a_scaled_gradient_steps_as_the_gradient_itself[Adam]")),
    Fault("rows take one another's gradients", SWEEP, "(k - task.rows[k]) * task.row_size", "0",
          tests("sparse", "touched_rows_take_the_dense_step_and_others_keep_every_bit")),
    Fault("missed decay is forgotten", SPARSE, "std::exp(before - at_row[row])", "1.0", CATCH_UP),
    Fault("a dense step forgets missed decay", COMMIT, "catches_up_ = true;", "", CATCH_UP),
    Fault("repeated rows step twice", SPARSE, "if (!is_rising(rows.index)) {", "if (false) {",
          tests("sparse", "repeated_and_unsorted_indices_add_up")),
    Fault("negative indices", SPARSE, "0 <= at && at < size", "at < size",
          tests("sparse", "what_is_wrong_is_refused_and_changes_nothing"), crashes=True),
    Fault("found_inf ignored", STEP, "if (!read_scaler(grad_scale, found_inf)) return true;",
          "read_scaler(grad_scale, found_inf);", SKIPPED),
    Fault("found_inf ignored by the op", "csrc/ops.cpp",
          "if (arguments.is_skipped(scaler)) return;", "arguments.is_skipped(scaler);", THE_OP),
    Fault("new states stay after a refusal", STEP,
          "    plan_anew(groups, state.ptr());\n  }\n  if (!plan_.new_decay_logs",
          "    made.keep();\n    plan_anew(groups, state.ptr());\n  }\n  if (!plan_.new_decay_logs",
          EXPANDED),
    Fault("threads keep their own floating-point modes", "csrc/sweep/parallel.h",
          "    const FloatModeGuard guard(mode);\n", "",
          tests("determinism", "c8_threads_take_over_the_callers_floating_point_mode[Adam]")),
)  # fmt: skip

PYTHON = (
    Fault("loaded states are those of the source", STATE, "dtype=dtype, copy=True)",
          "dtype=dtype)", ALIASES),
    Fault("a loaded step is that of the source", STATE, "value.to(device, dtype, copy=True)",
          "value.to(device, dtype)", ALIASES),
    Fault("state_dtype ignored when loading", "python/onepass/loading.py",
          "state_dtype(param, {**optimizer.defaults, **group})", "param.dtype", RELOAD),
    Fault("a refused load leaves its states", OPTIMIZER, "self.__dict__.update(before)", "pass",
          NOT_LOADED),
    Fault("a refused group stays", OPTIMIZER, "self.param_groups.pop()", "pass", GROUP),
    Fault("steps are counted in the default dtype", OPTIMIZER,
          "number_dtype(group.get(\"fused\"))", "torch.get_default_dtype()",
          DEFAULTS),
    Fault("float16 parameters have float16 states", STATE,
          "return torch.float32 if param.dtype == torch.float16 else param.dtype",
          "return param.dtype", DTYPES),
    Fault("states of inference mode", OPTIMIZER, "with torch.inference_mode(False):", "if True:",
          TWO_WAYS),
    Fault("all groups must ask for fused", OPTIMIZER, "return any(group.get(\"fused\")",
          "return all(group.get(\"fused\")", ENOUGH),
    Fault("new states are contiguous", OPTIMIZER, "torch.preserve_format",
          "torch.contiguous_format", LAYOUTS),
)  # fmt: skip

EMA = (
    Fault("the first average is no copy", "csrc/rules/ema.h", "first != Real(0) ? value : ", "",
          tests("ema", "the_first_update_copies_whatever_the_average_was")),
    Fault("an average is corrected for a step more", "csrc/rules/ema.h", "power(h.beta, h.step)",
          "power(h.beta, h.step + 1.0)", tests("ema", "corrected_averages_are_the_formula")),
    Fault("tied weights are averaged twice", "python/onepass/ema/names.py",
          "seen.setdefault(id(tensor), len(seen))", "seen.setdefault(len(seen), len(seen))",
          tests("ema_weights", "tied_weights_are_averaged_once")),
    Fault("an exception in a swap keeps the averages", "python/onepass/ema/average.py",
          "before.restore()\n            raise", "raise",
          tests("ema_swapped", "weights_come_back_after_a_swap_whatever_happens_in_it")),
)  # fmt: skip

FAULTS = (*FORMULAS, *MEMORY, *PROMISES, *PYTHON, *EMA)
