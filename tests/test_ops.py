"""torch.ops.onepass: one in-place op on tensor lists for every algorithm."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from onepass.rules import RULES
from tests.cases import Case
from tests.oracle import Operands, op_lists, op_of, op_options, state_names
from tests.support import each_case, make_params, params_of, randn, raw, set_grads, take_steps

pytestmark = pytest.mark.thorough

SCHEMAS = {
    "sgd": "onepass::sgd_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momentum_buffers, "
    "Tensor(c!)[] state_steps, *, Tensor lr, Tensor momentum, float dampening, Tensor "
    "weight_decay, bool nesterov=False, bool maximize=False, Tensor? found_inf=None) -> ()",
    "momentum": "onepass::momentum_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] state_steps, *, Tensor lr, Tensor momentum, Tensor weight_decay, Tensor? "
    "reference_lr=None, bool bias_correction=False, bool nesterov=False, bool "
    "decoupled_weight_decay=False, bool decouple_lr=False, bool maximize=False, Tensor? "
    "found_inf=None) -> ()",
    "adagrad": "onepass::adagrad_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] sums, "
    "Tensor(c!)[] state_steps, *, Tensor lr, float lr_decay, Tensor weight_decay, float eps, float "
    "eps_root=0., float initial_accumulator_value=0., bool maximize=False, Tensor? found_inf=None) "
    "-> ()",
    "rmsprop": "onepass::rmsprop_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] square_avgs, "
    "Tensor(c!)[] momentum_buffers, Tensor(d!)[] grad_avgs, Tensor(e!)[] state_steps, *, Tensor "
    "lr, float alpha, float eps, Tensor weight_decay, Tensor momentum, float eps_root=0., bool "
    "maximize=False, Tensor? found_inf=None) -> ()",
    "adadelta": "onepass::adadelta_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] square_avgs, "
    "Tensor(c!)[] acc_deltas, Tensor(d!)[] state_steps, *, Tensor lr, float rho, float eps, Tensor "
    "weight_decay, bool maximize=False, Tensor? found_inf=None) -> ()",
    "adam": "onepass::adam_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] max_exp_avg_sqs, Tensor(e!)[] state_steps, *, Tensor "
    "lr, Tensor beta1, Tensor beta2, float eps, Tensor weight_decay, float eps_root=0., Tensor? "
    "reference_lr=None, bool decouple_lr=False, bool cautious=False, bool "
    "decoupled_weight_decay=False, bool maximize=False, Tensor? found_inf=None) -> ()",
    "adamw": "onepass::adamw_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] max_exp_avg_sqs, Tensor(e!)[] state_steps, *, Tensor "
    "lr, Tensor beta1, Tensor beta2, float eps, Tensor weight_decay, float eps_root=0., Tensor? "
    "reference_lr=None, bool decouple_lr=False, bool cautious=False, bool maximize=False, Tensor? "
    "found_inf=None) -> ()",
    "adamax": "onepass::adamax_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_infs, Tensor(d!)[] state_steps, *, Tensor lr, Tensor beta1, Tensor beta2, "
    "float eps, Tensor weight_decay, bool maximize=False, Tensor? found_inf=None) -> ()",
    "nadam": "onepass::nadam_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] mu_products, Tensor(e!)[] state_steps, *, Tensor lr, "
    "Tensor beta1, Tensor beta2, float eps, Tensor weight_decay, float momentum_decay, float "
    "eps_root=0., Tensor? reference_lr=None, bool decouple_lr=False, bool "
    "decoupled_weight_decay=False, bool maximize=False, Tensor? found_inf=None) -> ()",
    "radam": "onepass::radam_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] state_steps, *, Tensor lr, Tensor beta1, Tensor beta2, "
    "float eps, Tensor weight_decay, float eps_root=0., Tensor? reference_lr=None, bool "
    "decouple_lr=False, bool decoupled_weight_decay=False, bool maximize=False, Tensor? "
    "found_inf=None) -> ()",
    "rprop": "onepass::rprop_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] prevs, "
    "Tensor(c!)[] step_sizes, Tensor(d!)[] state_steps, *, Tensor lr, float eta_minus, float "
    "eta_plus, float step_size_min, float step_size_max, bool maximize=False, Tensor? "
    "found_inf=None) -> ()",
    "asgd": "onepass::asgd_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] axs, Tensor(c!)[] "
    "etas, Tensor(d!)[] mus, Tensor(e!)[] state_steps, *, Tensor lr, float lambd, float alpha, "
    "float t0, Tensor weight_decay, bool maximize=False, Tensor? found_inf=None) -> ()",
    "lion": "onepass::lion_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] state_steps, *, Tensor lr, Tensor beta1, Tensor beta2, Tensor weight_decay, "
    "Tensor? reference_lr=None, bool decouple_lr=False, bool cautious=False, bool maximize=False, "
    "Tensor? found_inf=None) -> ()",
}


def test_the_schemas_are_those_that_were_published() -> None:
    found = {rule: str(getattr(torch.ops.onepass, f"{rule}_").default._schema) for rule in SCHEMAS}
    assert found == SCHEMAS


@each_case
def test_the_schema_says_what_is_written_and_takes_every_option(case: Case) -> None:
    rule = RULES[case.ours.rule]
    arguments = op_of(case)._schema.arguments
    lists = [*(f"{one.name}s" for one in (*rule.states, *rule.numbers)), "state_steps"]
    options = [hyper.name for hyper in rule.hypers]
    wanted = ["params", "grads", *lists, *options, "maximize", "found_inf"]
    assert [argument.name for argument in arguments] == wanted
    written = [one.name for one in arguments if one.alias_info and one.alias_info.is_write]
    assert written == ["params", *lists]
    assert {one.name for one in arguments if one.kwarg_only} == {*options, "maximize", "found_inf"}
    arguments_of_the_class = inspect.signature(case.ours).parameters.keys()
    assert {hyper.key for hyper in rule.hypers} <= arguments_of_the_class | {"reference_lr"}


@dataclass
class Call:
    """The arguments of one call of an op."""

    lists: list[list[Tensor]]
    options: dict[str, Any]

    def tensors(self) -> list[Tensor]:
        return [tensor for tensors in self.lists for tensor in tensors]

    def bytes(self) -> list[bytes]:
        return [raw(tensor) for tensor in self.tensors()]

    def detached(self) -> Call:
        """Returns a call on copies of the same strides, and the same options."""
        return Call([[t.detach().clone() for t in ts] for ts in self.lists], dict(self.options))


def call_of(case: Case, optimizer: Any, steps: int = 2) -> Call:
    """Returns the call of the op that is the next step of an optimizer with one group.

    `steps` is how many it has taken, for an algorithm that keeps no count itself.
    """
    (group,) = optimizer.param_groups
    rows = []
    for param in group["params"]:
        state = optimizer.state.get(param, {})
        states = {name: state[name] for name in state_names(case, group)}
        numbers = {one.name: state[one.name] for one in RULES[case.ours.rule].numbers}
        step = state.get("step", torch.tensor(float(steps)))
        rows.append(Operands(param.detach(), param.grad, step, states, numbers))
    return Call(op_lists(case, rows), op_options(case, group))


def prepared(case: Case, params: list[Tensor], **options: Any) -> Any:
    optimizer = case.ours(params, **options)
    take_steps(optimizer, 2)
    set_grads(params, 5)
    return optimizer


def leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().requires_grad_() for tensor in tensors]


def gapped(shape: tuple[int, int]) -> Tensor:
    return randn((shape[0], 3 * shape[1]), torch.float32, 9)[:, ::3]


Variation = tuple[Callable[[], list[Tensor]], dict[str, Any]]


def variations(case: Case) -> Iterator[tuple[str, Variation]]:
    """Yields parameters and options that differ in layout, dtype, number and settings."""
    shapes = ((4, 3), (7,), (2, 3, 2))
    for k, options in enumerate((*case.settings, *case.extras)):
        yield f"setting {k}", (lambda: make_params(shapes), options)
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.complex64):
        yield str(dtype), (lambda dtype=dtype: make_params(shapes, dtype), {})
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        yield f"states {dtype}", (lambda: make_params(shapes), {"state_dtype": dtype})
    layouts: dict[str, Callable[[], list[Tensor]]] = {
        "0-dim": lambda: make_params(((), ())),
        "1-element": lambda: make_params(((1,), (1, 1))),
        "empty tensors": lambda: make_params(((0,), (3,), (2, 0))),
        "transposed": lambda: leaves([randn((3, 4), torch.float32, 2).t()]),
        "gaps": lambda: leaves([gapped((3, 2))]),
        "offset": lambda: leaves([randn((20,), torch.float32, 2)[3:14]]),
        "channels_last": lambda: leaves(
            [randn((2, 3, 4, 5), torch.float32, 2).to(memory_format=torch.channels_last)]
        ),
        "mixed dtypes": lambda: make_params(((3,),)) + make_params(((3,),), torch.bfloat16),
    }
    for name, params in layouts.items():
        yield name, (params, {})


# ---- C19


@each_case
def test_c19_opcheck_passes(case: Case) -> None:
    count = 0
    for _, (params, options) in variations(case):
        call = call_of(case, prepared(case, params(), **options)).detached()
        found_inf = (None, torch.tensor(0.0), torch.tensor([1.0]))[count % 3]
        options = {**call.options, "found_inf": found_inf}
        torch.library.opcheck(op_of(case), tuple(call.lists), options)
        count += 1
    none = call_of(case, prepared(case, make_params(((2,),))))
    empty: list[list[Tensor]] = [[] for _ in none.lists]
    torch.library.opcheck(op_of(case), tuple(empty), none.options)
    assert count + 1 >= 10


@each_case
def test_the_op_does_what_the_step_does_bit_for_bit(case: Case) -> None:
    count = 0
    for name, (params, options) in variations(case):
        optimizer = prepared(case, params(), **options)
        call = call_of(case, optimizer).detached()
        op_of(case)(*call.lists, **call.options)
        optimizer.step()
        assert call.bytes() == call_of(case, optimizer, steps=3).bytes(), name
        count += 1
    assert count >= 18


@each_case
def test_the_op_writes_what_its_schema_says_and_no_more(case: Case) -> None:
    schema = op_of(case)._schema
    written = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    call = call_of(case, prepared(case, make_params(((4, 3), (7,))), **case.settings[-1]))
    before = [[raw(t) for t in tensors] for tensors in call.lists]
    versions = [[t._version for t in tensors] for tensors in call.lists]
    with torch.no_grad():
        op_of(case)(*call.lists, **call.options)
    for k, tensors in enumerate(call.lists):
        changed = [raw(t) != b for t, b in zip(tensors, before[k], strict=True)]
        bumped = [t._version > v for t, v in zip(tensors, versions[k], strict=True)]
        assert changed == bumped == [written[k]] * len(tensors), schema.arguments[k].name
    assert not any(written[len(call.lists) :])


@each_case
def test_the_op_skips_where_found_inf_is_set(case: Case) -> None:
    call = call_of(case, prepared(case, make_params(((4, 3), (7,)))))
    before = call.bytes()
    for found_inf in (torch.tensor(1.0), torch.tensor([2]), torch.tensor(float("nan"))):
        op_of(case)(*call.lists, **call.options, found_inf=found_inf)
        assert call.bytes() == before, found_inf


@each_case
def test_the_op_refuses_lists_that_do_not_fit_and_changes_nothing(case: Case) -> None:
    call = call_of(case, prepared(case, make_params(((4, 3), (7,)))))
    before = call.bytes()
    count = 0
    for k in range(len(call.lists)):
        for spoil in (lambda ts: ts[:-1], lambda ts: [*ts, ts[-1]], lambda ts: [*ts[:-1], ts[0]]):
            if not call.lists[k]:
                continue
            lists = [spoil(tensors) if i == k else tensors for i, tensors in enumerate(call.lists)]
            numbers = 1 + len(RULES[case.ours.rule].numbers)  # with the step
            if k >= len(call.lists) - numbers and len(lists[k]) == len(lists[0]):
                continue  # the same number twice is another matter
            with pytest.raises(RuntimeError):
                op_of(case)(*lists, **call.options)
            assert call.bytes() == before, f"list {k}"
            count += 1
    assert count >= 8


@each_case
def test_the_op_on_meta_tensors_does_nothing(case: Case) -> None:
    call = call_of(case, prepared(case, make_params(((4, 3), (7,)))))
    lists = [[t.to("meta") for t in tensors] for tensors in call.lists]
    assert op_of(case)(*lists, **call.options) is None
    assert all(t.is_meta for tensors in lists for t in tensors)


@each_case
def test_every_argument_of_the_op_is_a_list_or_keyword_only(case: Case) -> None:
    for argument in op_of(case)._schema.arguments:
        assert argument.kwarg_only != str(argument.type).startswith("List"), argument.name


@each_case
def test_the_optimizer_steps_meta_parameters_without_an_error(case: Case) -> None:
    params = [p.detach().to("meta").requires_grad_() for p in make_params(((4, 3), (7,)))]
    optimizer = case.ours(params)
    for param in params:
        param.grad = torch.empty_like(param)
    optimizer.step()
    for param in params_of(optimizer):
        for name in state_names(case, optimizer.param_groups[0]):
            assert optimizer.state[param][name].is_meta
