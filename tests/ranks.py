"""Tests that need more than one process: each rank runs functions of a module of tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from tests.support import finish, start_python


def on_ranks(promises: Sequence[Callable[[], None]], store: Path, count: int = 2) -> None:
    """Runs functions of one module in processes that form a group over gloo."""
    module, names = promises[0].__module__, ", ".join(each.__name__ for each in promises)
    call = (
        f"from tests.ranks import run; from {module} import {names}; "
        f"run([{names}], {str(store / 'store')!r}, {count})"
    )
    started = [start_python(["-c", call], RANK=str(rank)) for rank in range(count)]
    try:
        for process in started:
            finish(process, timeout=300.0)
    finally:
        for process in started:
            process.kill()
            process.communicate()


def run(promises: Sequence[Callable[[], None]], rendezvous: str, count: int) -> None:
    """Runs functions within a group of processes; called in each of them."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(rendezvous, count)
    rank, timeout = int(os.environ["RANK"]), timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=timeout)
    try:
        for promise in promises:
            promise()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)  # the other ranks may wait for this one in a collective
    dist.destroy_process_group()
