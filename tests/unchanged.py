"""What a refused call must leave alone: every byte, version counter, key and object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

REFUSALS = (ValueError, RuntimeError, TypeError)


def memory_of(tensor: Tensor) -> bytes:
    """Returns the bytes of the whole storage, not only of the tensor's own elements."""
    storage = tensor.untyped_storage()
    if tensor.device.type != "cpu" or storage.data_ptr() == 0:
        return b""
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()


def version_of(tensor: Tensor) -> int | None:
    try:
        return tensor._version
    except RuntimeError:  # of inference tensors, and of some whose data was one's
        return None


def facts(value: Any) -> Any:
    """Returns all that can be seen of a value, in a form that compares by `==`."""
    if isinstance(value, (list, tuple)):
        return type(value), [facts(item) for item in value]
    if isinstance(value, dict):
        return type(value), {key: facts(item) for key, item in value.items()}
    if not isinstance(value, Tensor):
        return type(value), repr(value)
    about = (id(value), value.dtype, tuple(value.shape), value.requires_grad, version_of(value))
    if value.layout is torch.sparse_coo:
        return (*about, facts(value._indices())[1:], facts(value._values())[1:])
    if value.layout is not torch.strided or type(value) not in (Tensor, torch.nn.Parameter):
        return about
    return (*about, value.stride(), value.storage_offset(), memory_of(value))


def everything(optimizer: Any, *others: Tensor) -> dict[str, Any]:
    """Returns all that a step of the optimizer could change, under readable names."""
    seen: dict[str, Any] = {
        "list of groups": (id(optimizer.param_groups), [id(g) for g in optimizer.param_groups]),
        "parameters with state": (id(optimizer.state), [id(param) for param in optimizer.state]),
        "others": facts(list(others)),
    }
    for i, group in enumerate(optimizer.param_groups):
        for key, value in group.items() if isinstance(group, dict) else ():
            seen[f"group {i} {key}"] = facts(value)
        for j, param in enumerate(group["params"]):
            seen[f"grad {i}.{j}"] = facts(getattr(param, "grad", None))
    for k, state in enumerate(optimizer.state.values()):
        seen[f"state {k}"] = (id(state), facts(state))
    return seen


def assert_unchanged(before: dict[str, Any], after: dict[str, Any], about: object) -> None:
    differing = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    assert not differing, f"{about}: changed although refused: {differing}"


@contextmanager
def refused(
    optimizer: Any, about: object, *others: Tensor, errors: tuple[type[Exception], ...] = REFUSALS
) -> Iterator[None]:
    """Expects one of the errors and no other effect; all that fails is an AssertionError."""
    before = everything(optimizer, *others)
    try:
        yield
    except errors:
        assert_unchanged(before, everything(optimizer, *others), about)
    except Exception as error:
        raise AssertionError(f"{about}: {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"{about}: accepted")


class Findings:
    """Collects what a loop over many cases finds wrong, and counts the cases."""

    def __init__(self) -> None:
        self.cases = 0
        self.failures: list[str] = []

    @contextmanager
    def case(self) -> Iterator[None]:
        self.cases += 1
        try:
            yield
        except AssertionError as error:
            self.failures.append(str(error).split("\nassert ")[0])

    def report(self, at_least: int) -> None:
        """Fails unless that many cases ran and none failed."""
        shown = "\n".join(self.failures[:40])
        assert not self.failures, f"{len(self.failures)} of {self.cases} cases:\n{shown}"
        assert self.cases >= at_least, f"only {self.cases} cases of {at_least}"
