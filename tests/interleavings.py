"""Takes steps while another thread changes their tensors: each must be whole, or not taken.

python -m tests.interleavings COUNT SEED
"""

from __future__ import annotations

import ctypes
import itertools
import random
import sys
import threading
from typing import Any

import torch
from torch import Tensor

from tests.cases import CASES, Case

SIZE = 530_000  # elements of each of two parameters: together enough to let other threads run
GRADS = [torch.full((SIZE,), 0.5 - k) for k in range(2)]
Memory = dict[tuple[int, str], Tensor]


class Interrupt(BaseException):
    pass


# ---- what the other thread does to an optimizer and one of its parameters


def clear_state(optimizer: Any, param: Tensor, _: threading.Thread) -> None:
    optimizer.state[param].clear()


def clear_all_states(optimizer: Any, _: Tensor, __: threading.Thread) -> None:
    optimizer.state.clear()


def drop_state(optimizer: Any, param: Tensor, _: threading.Thread) -> None:
    optimizer.state.pop(param, None)


def drop_gradient(_: Any, param: Tensor, __: threading.Thread) -> None:
    param.grad = None


def drop_groups(optimizer: Any, _: Tensor, __: threading.Thread) -> None:
    optimizer.param_groups.clear()


def drop_parameter(optimizer: Any, param: Tensor, _: threading.Thread) -> None:
    params = optimizer.param_groups[0]["params"]
    params[:] = [other for other in params if other is not param]


def replace_parameter(_: Any, param: Tensor, __: threading.Thread) -> None:
    param.data = torch.zeros(1)


def replace_gradient(_: Any, param: Tensor, __: threading.Thread) -> None:
    if param.grad is not None:
        param.grad.data = torch.zeros(1)


def replace_states(optimizer: Any, param: Tensor, _: threading.Thread) -> None:
    for tensor in list(optimizer.state.get(param, {}).values()):
        if tensor.numel() == SIZE:  # another count would be as good, and the step another
            tensor.data = torch.zeros(1)


def interrupt(_: Any, __: Tensor, stepping: threading.Thread) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(stepping.ident or 0), ctypes.py_object(Interrupt)
    )


DEEDS = (
    clear_state,
    clear_all_states,
    drop_state,
    drop_gradient,
    drop_groups,
    drop_parameter,
    replace_parameter,
    replace_gradient,
    replace_states,
    interrupt,
)


# ---- one step


def started(case: Case, steps: int) -> tuple[Any, list[Tensor]]:
    params = [torch.full((SIZE,), 1.0 + k, requires_grad=True) for k in range(2)]
    optimizer = case.ours(params, lr=0.1)
    for param, grad in zip(params, GRADS, strict=True):
        param.grad = grad.detach()
    for _ in range(steps):
        optimizer.step()
    return optimizer, params


def memory_of(optimizer: Any, params: list[Tensor]) -> Memory:
    """Returns the memory that a step changes, in tensors that keep it in any case."""
    memory = {}
    for k, param in enumerate(params):
        memory[k, "param"] = param.detach()
        for name, value in optimizer.state.get(param, {}).items():
            memory[k, name] = value.detach()
    return memory


class Expected:
    """What a step makes of a start: with the states there (after), or with new ones (anew)."""

    def __init__(self, case: Case, steps: int) -> None:
        optimizer, params = started(case, steps)
        self.before = self.copied(optimizer, params)
        optimizer.step()
        self.after = self.copied(optimizer, params)
        optimizer, params = started(case, steps)
        optimizer.state.clear()
        optimizer.step()
        self.anew = self.copied(optimizer, params)

    @staticmethod
    def copied(optimizer: Any, params: list[Tensor]) -> Memory:
        return {key: value.clone() for key, value in memory_of(optimizer, params).items()}

    def words_for(self, key: tuple[int, str], value: Tensor) -> set[str]:
        """Returns which of the expected ends some memory is."""
        ends = {"before": self.before, "after": self.after, "anew": self.anew}
        return {word for word, end in ends.items() if torch.equal(end[key], value)}


class Attempt:
    """One step in a thread, and a deed in this one at some time meanwhile."""

    def __init__(self, case: Case, steps: int, deed: Any, rng: random.Random) -> None:
        self.optimizer, self.params = started(case, steps)
        # torch lets other threads run in the middle of `param.grad = None` where that destroys the
        # gradient, to which the parameter still points: its own `param.grad` crashes then too.
        self.grads = [param.grad for param in self.params]
        self.memory = memory_of(self.optimizer, self.params)
        self.error: BaseException | None = None
        self.touched = rng.randrange(2)
        stepping = threading.Thread(target=self.step)
        stepping.start()
        for _ in range(int(rng.expovariate(1 / 2000))):
            pass
        deed(self.optimizer, self.params[self.touched], stepping)
        stepping.join()
        self.is_interrupted = deed is interrupt  # perhaps where step() cannot note it
        self.about = f"{case} after {steps} steps, {deed.__name__}, raised {self.error!r}"

    def step(self) -> None:
        try:
            self.optimizer.step()
        except BaseException as error:
            self.error = error

    def check(self, expected: Expected, may_drop_all: bool) -> None:
        refusals = (Interrupt, RuntimeError, TypeError, ValueError, IndexError)
        assert self.error is None or isinstance(self.error, refusals), self.about
        ends = [self.check_parameter(k, expected) for k in range(2)]
        other = ends[1 - self.touched]
        if self.is_interrupted:
            both = ("before" in ends[0]) == ("before" in ends[1])
            assert both, f"{self.about}: one of two parameters was stepped"
        elif self.error is not None:
            assert "before" in other, f"{self.about}: refused, but the other one was stepped"
        elif not may_drop_all:
            assert other & {"after", "anew"}, f"{self.about}: the other one was not stepped"

    def check_parameter(self, k: int, expected: Expected) -> set[str]:
        found = expected.words_for((k, "param"), self.memory[k, "param"])
        assert found, f"{self.about}: parameter {k} was stepped by half"
        if "after" in found and "anew" not in found:  # so by the states that were there
            for key, value in self.memory.items():
                whole = key[0] != k or "after" in expected.words_for(key, value)
                assert whole, f"{self.about}: {key} was left behind"
        return found


def main(count: int, seed: int) -> None:
    sys.setswitchinterval(1e-5)
    torch.set_num_threads(2)
    rng = random.Random(seed)
    kinds = list(itertools.product(CASES, (0, 1)))
    each = max(1, count // len(kinds))
    refused = 0
    for case, steps in kinds:
        expected = Expected(case, steps)
        for _ in range(each):
            deed = rng.choice(DEEDS)
            attempt = Attempt(case, steps, deed, rng)
            attempt.check(expected, may_drop_all=deed is drop_groups)
            refused += attempt.error is not None
    print("well", each * len(kinds), refused)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
