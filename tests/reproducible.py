"""Promises about the bits of an optimizer, whatever makes them: threads, vectors, a resume."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch

from onepass import _C
from tests.support import assert_same, instruction_sets, params_of, snapshot, take_steps


def assert_same_for_threads_and_instruction_sets(made: Callable[[], Any]) -> None:
    want = None
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            for name in instruction_sets():
                _C.set_instruction_set(name)
                optimizer = made()
                take_steps(optimizer, 2)
                want = want or snapshot(optimizer)
                assert_same(snapshot(optimizer), want, (count, name))
    finally:
        torch.set_num_threads(threads)
        _C.set_instruction_set(instruction_sets()[-1])


def assert_resumed_goes_on(made: Callable[[], Any]) -> None:
    """From a file, in an optimizer made anew, and in a copy."""
    optimizer = made()
    take_steps(optimizer, 2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = made()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for a, b in zip(params_of(resumed), params_of(optimizer), strict=True):
        a.data.copy_(b.detach())
    copied = copy.deepcopy(optimizer)
    for one in (optimizer, resumed, copied):
        take_steps(one, 2, first=2)
    assert_same(snapshot(resumed), snapshot(optimizer))
    assert_same(snapshot(copied), snapshot(optimizer))
