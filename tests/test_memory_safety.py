"""C4: nothing is read or written out of bounds, whatever is passed."""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from onepass import _C
from onepass.rules import RULES
from tests import mutants
from tests.bad_inputs import make, rows
from tests.cases import CASES, Case
from tests.fuzz import Fuzz
from tests.guarded import Canaries, GuardedPage
from tests.oracle import all_states_on, op_of, op_options
from tests.support import (
    COMPLEX,
    REAL,
    each_case,
    each_kind,
    instruction_sets,
    params_of,
    run_python,
    seeded,
)
from tests.unchanged import REFUSALS, Findings, facts, refused

pytestmark = pytest.mark.thorough

# (parameter, gradient, states): all that are swept in place, and some that go through tiles.
MIXES = [(dtype, dtype, dtype) for dtype in (*REAL, *COMPLEX)] + [
    (torch.float32, torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16, torch.float32),
    (torch.float16, torch.float16, torch.float32),
    (torch.float32, torch.float16, torch.float64),
    (torch.complex64, torch.complex128, torch.complex64),
]
SIZES, OFFSETS = range(71), range(16)
# Fuzz calls for each algorithm: of the op, of spoilt optimizers, of state dicts.
OP_CALLS, SPOILT, STATE_DICTS = 1500, 500, 500


class Op:
    """The algorithm's op with all states present and fixed options."""

    def __init__(self, case: Case) -> None:
        group = case.ours([torch.ones(1)], lr=0.1, **all_states_on(case)).param_groups[0]
        self.op = op_of(case)
        self.states = len(RULES[case.ours.rule].states)
        self.pages = [GuardedPage() for _ in RULES[case.ours.rule].numbers]
        self.options = op_options(case, group)

    def __call__(self, param: Tensor, grad: Tensor, states: list[Tensor], step: Tensor) -> None:
        numbers = [page.at_end(1, torch.float32).fill_(0.25) for page in self.pages]
        lists = [[tensor] for tensor in (param, grad, *states, *numbers, step)]
        self.op(*lists, **self.options)


def ones(count: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(count, dtype=dtype)


@each_case
@pytest.mark.sanitize
@pytest.mark.parametrize("end", ["at_start", "at_end"])
@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_c4_the_pages_around_a_tensor_are_not_touched(
    case: Case, instruction_set: str, end: str
) -> None:
    _C.set_instruction_set(instruction_set)
    op, calls = Op(case), 0
    pages = [GuardedPage() for _ in range(op.states + 3)]
    for (param_type, grad_type, state_type), size in itertools.product(MIXES, SIZES):
        types = [param_type, grad_type, *[state_type] * op.states]
        for offset in OFFSETS if end == "at_start" or size < 17 else (0, size % 16):
            param, grad, *states = (
                getattr(page, end)(offset + size, dtype)[offset:].fill_(1)
                for page, dtype in zip(pages, types, strict=False)
            )
            step = pages[-1].at_end(1, torch.float32).fill_(1)
            op(param, grad, states, step)
            assert step == 2
            assert size == 0 or (param[0] != 1 and param[-1] == param[0])
            calls += 1
    assert calls >= len(MIXES) * len(SIZES)


@each_case
@pytest.mark.sanitize
def test_c4_the_page_after_a_strided_tensor_is_not_touched(case: Case) -> None:
    op, calls = Op(case), 0
    pages = [GuardedPage() for _ in range(op.states + 2)]
    layouts = [
        lambda memory, n: memory[-(2 * n - 1) :: 2],
        lambda memory, n: memory[-3 * n :].view(n, 3)[:, 1:].t(),
        lambda memory, n: memory[-3 * n :].view(3, n).t(),
        lambda memory, n: memory[-2 * n :].view(2, n)[1:, : n // 2 + 1],
        lambda memory, n: memory[-n:].view(n, 1, 1),
    ]
    for dtype, n in itertools.product((*REAL, *COMPLEX), range(1, 71)):
        for chosen in itertools.combinations_with_replacement(layouts, 2):
            made = []
            for k, page in enumerate(pages):
                tensor = chosen[k % 2](page.at_end(3 * n, dtype), n)
                made.append(tensor.fill_(1))
            if len({tensor.shape for tensor in made}) > 1:
                continue
            op(made[0], made[1], made[2:], torch.ones(()))
            assert bool((made[0] == made[0].flatten()[0]).all())
            assert made[0].flatten()[0] != 1
            calls += 1
    assert calls >= 2000


@each_kind
@pytest.mark.sanitize
def test_c4_neighbours_in_the_same_buffer_are_not_written(case: Case) -> None:
    op, findings, generator = Op(case), Findings(), seeded(5)
    for (param_type, grad_type, state_type), size in itertools.product(MIXES, SIZES):
        types = [param_type, grad_type, *[state_type] * op.states]
        for offset in OFFSETS if param_type == state_type else (size % 16,):
            values = torch.randn(size, generator=generator).abs() + 0.1
            plain = [values.to(dtype, copy=True) for dtype in types]
            inside = [Canaries(v, (offset + 3 * k) % 16) for k, v in enumerate(plain)]
            op(plain[0], plain[1], plain[2:], torch.ones(()))
            tensors = [canaries.tensor for canaries in inside]
            op(tensors[0], tensors[1], tensors[2:], torch.ones(()))
            with findings.case():
                about = f"{param_type} {state_type}, {size} at {offset}"
                assert all(canaries.alive() for canaries in inside), f"{about}: neighbours changed"
                assert all(map(torch.equal, tensors, plain)), f"{about}: other numbers"
                assert torch.equal(tensors[1], values.to(grad_type)), f"{about}: gradient changed"
    findings.report(at_least=len(SIZES) * len(OFFSETS) * 6)


@each_kind
@pytest.mark.sanitize
def test_c4_two_rows_more_than_8_gib_apart_are_both_stepped(case: Case) -> None:
    """Strides of more than 2^31 elements, in memory that is reserved and hardly used."""
    op, far = Op(case), 2**31 + 5
    reserved = GuardedPage.reserve(far * 4 + 4096)
    param = reserved.as_strided((2, 3), (far, 1))
    states = [torch.ones(2, 3) for _ in range(op.states)]
    param.fill_(1)
    op(param, torch.ones(2, 3), states, torch.ones(()))
    assert bool((param == param[0, 0]).all())
    assert param[0, 0] != 1


def refuses(fuzz: Fuzz, lists: list[list[Tensor]], options: dict[str, Any], about: str) -> bool:
    """Makes the call; when it is refused, nothing may have changed."""
    tensors = [tensor for part in lists for tensor in part]
    before = facts([tensors, fuzz.memories])
    try:
        op_of(fuzz.case)(*lists, **options)
    except REFUSALS:
        assert facts([tensors, fuzz.memories]) == before, f"{about}: changed although refused"
        return True
    return False


@each_case
@pytest.mark.sanitize
def test_c4_the_op_is_right_or_refuses_whatever_it_is_given(case: Case) -> None:
    findings, refusals = Findings(), 0
    for seed in range(OP_CALLS):
        fuzz = Fuzz(case, seed)
        call = fuzz.draw()
        lists, options = fuzz.arguments(call)
        wrong = call.hopeless
        if fuzz.chance(0.1):
            wrong += fuzz.wrong_arguments(lists, options)
        about = f"seed {seed} {wrong}"
        with findings.case():
            model = fuzz.model(call)
            if refuses(fuzz, lists, options, about):
                refusals += 1
                continue
            assert not wrong, f"{about}: accepted"
            model.assert_right(about)
    findings.report(at_least=OP_CALLS)
    assert (OP_CALLS + SPOILT + STATE_DICTS) * len(CASES) >= 5000
    assert 400 < refusals < 1000


@each_kind
@pytest.mark.sanitize
def test_c4_a_step_after_several_wrongs_at_once_is_refused(case: Case) -> None:
    findings, table, choose = Findings(), rows(case), random.Random(1)
    for _ in range(SPOILT):
        optimizer = make(case, stepped=True)
        chosen = choose.choices(table, k=choose.choice((1, 2, 2, 3)))
        for bad in chosen:
            with contextlib.suppress(*REFUSALS, AttributeError, KeyError, AssertionError):
                bad.spoil(optimizer, choose.choice(params_of(optimizer)))
        with findings.case(), refused(optimizer, [bad.what for bad in chosen]):
            optimizer.step()
    findings.report(at_least=SPOILT)


@each_kind
@pytest.mark.sanitize
def test_c4_fuzzed_state_dicts_are_refused_or_can_be_stepped(case: Case) -> None:
    findings, choose, accepted = Findings(), random.Random(2), 0
    good = make(case, stepped=True).state_dict()
    table = [*mutants.entry_mutations(good, [0, 1, 2]), *mutants.state_mutations()]
    table += mutants.group_mutations(good)
    for _ in range(STATE_DICTS):
        optimizer, mutant = make(case, stepped=True), copy.deepcopy(good)
        chosen = choose.choices(table, k=choose.choice((1, 2, 3)))
        for _, mutate in chosen:
            with contextlib.suppress(*REFUSALS, AttributeError, LookupError):
                mutate(mutant)
        about = [name for name, _ in chosen]
        with findings.case():
            try:
                with refused(optimizer, about):
                    optimizer.load_state_dict(mutant)
            except AssertionError as error:
                if not str(error).endswith("accepted"):
                    raise
                accepted += 1
                optimizer.step()
    findings.report(at_least=STATE_DICTS)
    assert accepted >= 20


MEDDLING = """
import torch
from onepass.rules import RULES
from tests.bad_inputs import make
from tests.cases import CASES
from tests.oracle import all_states_on

class Meddler:
    def __init__(self, meddle): self.meddle = meddle
    def __float__(self): self.meddle(); return 0.1
    def __bool__(self): self.meddle(); return True
    def __len__(self): return 2
    def __getitem__(self, index): self.meddle(); return 0.5

MEDDLINGS = {
    "removes groups": lambda o: o.param_groups.clear(),
    "removes one group": lambda o: o.param_groups.pop(),
    "adds a group": lambda o: o.param_groups.append({"params": [torch.ones(2)], "lr": 0.1}),
    "removes parameters": lambda o: [g["params"].clear() for g in o.param_groups],
    "removes params": lambda o: [g.pop("params", None) for g in o.param_groups],
    "empties groups": lambda o: [g.clear() for g in o.param_groups],
    "spoils groups": lambda o: o.param_groups.__setitem__(slice(None), [5, None]),
    "removes states": lambda o: o.state.clear(),
    "empties states": lambda o: [s.clear() for s in o.state.values()],
    "removes gradients": lambda o: o.zero_grad(set_to_none=True),
    "steps": lambda o: o.step(),
    "loads": lambda o: o.load_state_dict(type(o)(o.param_groups[0]["params"]).state_dict()),
}

def attempt(case, where, meddle, group):
    optimizer = make(case, stepped=where != "_new_state")
    act = lambda: meddle(optimizer)
    if where == "_new_state":
        original = optimizer._new_state
        optimizer._new_state = lambda p, g: (act(), original(p, g))[1]
    else:
        optimizer.param_groups[group][where] = Meddler(act)
    try:
        optimizer.step()
    except Exception:
        pass

for case in CASES:
    keys = [hyper.key for hyper in RULES[case.ours.rule].hypers]
    for where in dict.fromkeys(["maximize", "_new_state", *keys, *all_states_on(case)]):
        for what, meddle in MEDDLINGS.items():
            for group in (0, 1):
                print(f"{case}: {where} of group {group} {what}", flush=True)
                attempt(case, where, meddle, group)
"""


def test_c4_options_that_meddle_while_they_are_read_do_not_end_the_process() -> None:
    """In a process of its own. They stand, too, for what another thread may do meanwhile."""
    out = run_python(["-c", MEDDLING])  # if it crashes, the last line says where
    assert len(out.splitlines()) >= 100 * len(CASES)
