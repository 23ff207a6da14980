"""Calls that several threads make at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


def in_threads(calls: Sequence[Callable[[], object]]) -> list[BaseException]:
    """Makes all calls at once, each in a thread, and returns what they raised."""
    raised: list[BaseException] = []
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        try:
            gate.wait()
            call()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive(), "a thread hangs in its step"
    return raised
