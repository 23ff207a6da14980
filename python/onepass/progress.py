"""A bar of progress where rich is installed, which onepass does not require; else one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress() -> Iterator[Callable[[float], object]]:
    """Gives a function that shows which share of the work is done, from 0 to 1."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        print("measuring for about ten seconds", file=sys.stderr)
        yield lambda _: None
        return
    # Drawn when it is told: a thread that draws would take time from what is measured.
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("measuring", total=1.0)
        yield lambda share: bar.update(task, completed=share, refresh=True)
