"""C21: any sequence of what users do with an optimizer leaves it where torch's would be."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

from onepass.rules import RULES
from tests.cases import Case
from tests.support import each_torch_case_with_late_states, numbers_of, params_of, randn

pytestmark = pytest.mark.thorough

SEQUENCES, ACTIONS = 60, 30
DTYPES = (torch.float64, torch.float32, torch.complex128)
SHAPES = ((3, 4), (), (5,), (0,))
seeds = st.integers(0, 2**16)
rates = st.sampled_from((0.0, 1e-3, 0.02, 0.1))


class Lockstep(RuleBasedStateMachine):
    """Our optimizer and torch's for-loop, taken through the same actions."""

    case: Case
    count = 0  # actions of all sequences

    @initialize(data=st.data(), seed=seeds, as_groups=st.booleans())
    def construct(self, data: Any, seed: int, as_groups: bool) -> None:
        self.options = data.draw(st.sampled_from(self.case.settings))
        self.names = 0
        given = {"lr": 0.02, **self.options}
        self.pair = []
        for cls in (self.case.ours, self.case.theirs):
            params = self.fresh_params(seed)
            groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}]
            self.pair.append(cls(groups if as_groups else params, **given))

    @staticmethod
    def fresh_params(seed: int, count: int = 4) -> list[Tensor]:
        return [
            randn(SHAPES[k % 4], DTYPES[(seed + k) % 3], seed + k).requires_grad_()
            for k in range(count)
        ]

    def each(self, action: Callable[[Any], Any]) -> None:
        type(self).count += 1
        for optimizer in self.pair:
            action(optimizer)

    def each_param(self, index: int, action: Callable[[Any, Tensor], Any]) -> None:
        """Acts on one parameter; `index` picks it among all of the optimizer."""
        self.each(lambda o: action(o, params_of(o)[index % len(params_of(o))]))

    @staticmethod
    def give_grads(optimizer: Any, seed: int, absent: int = 0) -> None:
        """Sets new gradients; the bits of `absent` say which parameters have none."""
        for k, param in enumerate(params_of(optimizer)):
            none = absent >> (k % 16) & 1 or not param.requires_grad
            param.grad = None if none else randn(param.shape, param.dtype, seed + k)

    # ---- steps

    @rule(seed=seeds)
    def step(self, seed: int) -> None:
        def action(optimizer: Any) -> None:
            self.give_grads(optimizer, seed)
            optimizer.step()

        self.each(action)

    @rule(seed=seeds, absent=seeds)
    def step_where_some_have_no_gradient(self, seed: int, absent: int) -> None:
        def action(optimizer: Any) -> None:
            self.give_grads(optimizer, seed, absent)
            optimizer.step()

        self.each(action)

    @rule()
    def step_again_along_the_same_gradients(self) -> None:
        self.each(lambda optimizer: optimizer.step())

    @rule(seed=seeds)
    def step_with_a_closure(self, seed: int) -> None:
        losses = []

        def action(optimizer: Any) -> None:
            def closure() -> Tensor:
                optimizer.zero_grad()
                squares = [(p * p.conj()).real.sum().double() for p in params_of(optimizer)]
                loss = torch.stack(squares).sum() * (1 + seed % 3)
                if loss.requires_grad:
                    loss.backward()
                return loss

            losses.append(float(optimizer.step(closure).detach()))

        self.each(action)
        assert abs(losses[0] - losses[1]) <= 1e-3 * (1 + abs(losses[1]))

    @rule(to_none=st.booleans())
    def zero_grad(self, to_none: bool) -> None:
        self.each(lambda optimizer: optimizer.zero_grad(set_to_none=to_none))

    # ---- options

    @rule(lr=rates, group=seeds)
    def change_lr(self, lr: float, group: int) -> None:
        self.each(lambda o: o.param_groups[group % len(o.param_groups)].update(lr=lr))

    @rule(lr=rates)
    def change_lr_to_a_tensor(self, lr: float) -> None:
        given = torch.tensor(lr, dtype=torch.float64)
        self.each(lambda o: o.param_groups[0].update(lr=given.clone()))

    @rule(maximize=st.booleans())
    def change_direction(self, maximize: bool) -> None:
        self.each(lambda o: o.param_groups[-1].update(maximize=maximize))

    @precondition(lambda self: "weight_decay" in self.pair[0].defaults)
    @rule(decay=rates)
    def change_decay(self, decay: float) -> None:
        self.each(lambda o: o.param_groups[-1].update(weight_decay=decay))

    @precondition(lambda self: "betas" in self.pair[0].defaults)
    @rule(betas=st.sampled_from(((0.9, 0.999), (0.0, 0.5), (0.5, 0.0), (0.8, 0.8))))
    def change_betas(self, betas: tuple[float, float]) -> None:
        self.each(lambda o: o.param_groups[0].update(betas=betas))

    # ---- parameters

    @precondition(lambda self: len(params_of(self.pair[0])) < 12)
    @rule(seed=seeds, lr=rates)
    def add_param_group(self, seed: int, lr: float) -> None:
        def action(optimizer: Any) -> None:
            optimizer.add_param_group({"params": self.fresh_params(seed, 2), "lr": lr})

        self.each(action)

    @rule(index=seeds)
    def freeze(self, index: int) -> None:
        def action(_: Any, param: Tensor) -> None:
            param.requires_grad_(False)
            param.grad = None

        self.each_param(index, action)

    @rule(index=seeds)
    def unfreeze(self, index: int) -> None:
        self.each_param(index, lambda _, param: param.requires_grad_())

    @rule(index=seeds, seed=seeds)
    def replace_data(self, index: int, seed: int) -> None:
        def action(_: Any, param: Tensor) -> None:
            param.data = randn(param.shape, param.dtype, seed)

        self.each_param(index, action)

    @rule(index=seeds, seed=seeds)
    def replace_the_tensor_in_its_group(self, index: int, seed: int) -> None:
        def action(optimizer: Any) -> None:
            group = optimizer.param_groups[index % len(optimizer.param_groups)]
            old = group["params"][seed % len(group["params"])]
            fresh = randn(old.shape, old.dtype, seed).requires_grad_()
            group["params"][seed % len(group["params"])] = fresh
            state = optimizer.state.pop(old, None)  # torch cannot save the state of a stranger
            if seed % 2 and state is not None:
                optimizer.state[fresh] = state

        self.each(action)

    # ---- state

    @rule(index=seeds, drop=st.booleans())
    def drop_state(self, index: int, drop: bool) -> None:
        # A class whose constructor makes states cannot copy an empty one.
        always = bool(self.case.theirs([torch.ones(1)]).state)

        def action(optimizer: Any, param: Tensor) -> None:
            if drop or always:
                optimizer.state.pop(param, None)
            else:
                optimizer.state[param] = {}

        self.each_param(index, action)

    @rule(index=seeds, seed=seeds)
    def replace_state_tensors(self, index: int, seed: int) -> None:
        def action(optimizer: Any, param: Tensor) -> None:
            state = optimizer.state.get(param, {})
            numbers = numbers_of(type(optimizer))
            # By name the mean of squares comes after any mean: it is the larger number, so that
            # torch takes no root of a negative variance.
            for k, name in enumerate(sorted(state.keys() - {"step", *numbers})):
                drawn = randn(param.shape, param.dtype, seed + k).abs().clamp(max=1)
                state[name] = (k + drawn).to(param.dtype)
            for name in numbers & state.keys():
                state[name] = torch.tensor(seed % 8 / 8)
            if "step" in state:
                state["step"] = torch.tensor(float(seed))

        self.each_param(index, action)

    # ---- saving, loading, copying

    @rule(exchange=st.booleans(), new=st.booleans())
    def save_and_load(self, exchange: bool, new: bool) -> None:
        """By file, into the same optimizers or new ones, of the same class or the other one."""
        type(self).count += 1
        saved = []
        for optimizer in self.pair:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            saved.append(torch.load(file, weights_only=True))
        if new:
            # Where states start torch reads from the constructor, ours from the group.
            starts = {state.start_at for state in RULES[self.case.ours.rule].states}
            options = {key: self.options[key] for key in starts & self.options.keys()}
            for k, cls in enumerate((self.case.ours, self.case.theirs)):
                groups = [{"params": g["params"]} for g in self.pair[k].param_groups]
                self.pair[k] = cls(groups, **options)
        given = saved[::-1] if exchange else saved
        for optimizer, state_dict in zip(self.pair, given, strict=True):
            optimizer.load_state_dict(state_dict)
            for state in optimizer.state.values():  # torch makes their type the parameter's
                state.update(
                    {
                        name: state[name].float()
                        for name in numbers_of(type(optimizer)) & state.keys()
                    }
                )

    @rule(how=st.sampled_from((copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value)))))
    def copy_all(self, how: Callable[[Any], Any]) -> None:
        type(self).count += 1
        self.pair = [how(optimizer) for optimizer in self.pair]

    # ---- what must hold after every action

    @invariant()
    def same_as_torch(self) -> None:
        if not hasattr(self, "pair"):
            return
        ours, theirs = self.pair
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert {k: a[k] for k in b if k != "params"} == {k: b[k] for k in b if k != "params"}
        for a, b in zip(params_of(ours), params_of(theirs), strict=True):
            near(a, b)
            mine, other = ours.state.get(a, {}), theirs.state.get(b, {})
            assert mine.keys() == other.keys()
            for name, value in other.items():
                near(mine[name], value)


def near(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape and a.requires_grad == b.requires_grad
    a, b = a.detach(), b.detach()
    if not torch.equal(a, b):
        tolerance = 2e-4 if a.dtype == torch.float32 else 1e-8
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), (a, b)


@each_torch_case_with_late_states
def test_c21_any_sequence_of_actions_ends_where_torch_ends(case: Case) -> None:
    machines: list[Any] = []

    def machine() -> RuleBasedStateMachine:
        machines.append(type(str(case), (Lockstep,), {"case": case})())
        return machines[-1]

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=ACTIONS + 8,  # some come to nothing
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert len(machines) >= SEQUENCES
    assert sum(type(made).count for made in machines) >= SEQUENCES * ACTIONS
