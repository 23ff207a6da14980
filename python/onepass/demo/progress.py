"""Shows how far the training is: a bar on a terminal, a line per epoch anywhere else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from onepass.demo.training import Run

Tick = Callable[[Run], None]


@contextmanager
def progress(console: Console, epochs: int, steps_per_epoch: int, runs: int) -> Iterator[Tick]:
    """Gives a function to call with a run after some of its steps.

    Args:
        console: where to write.
        epochs: how many each run has.
        steps_per_epoch: steps of one run in one epoch.
        runs: how many there are.
    """
    if not console.is_terminal:
        yield _plain(console, epochs, steps_per_epoch, runs)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    done: dict[str, int] = {}
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=epochs * steps_per_epoch * runs)

        def tick(run: Run) -> None:
            done[run.name] = len(run.losses)
            epoch = -(-len(run.losses) // steps_per_epoch)
            description = f"epoch {epoch}/{epochs}, loss {run.losses[-1]:.3f}"
            bar.update(task, completed=sum(done.values()), description=description)

        yield tick


def _plain(console: Console, epochs: int, steps_per_epoch: int, runs: int) -> Tick:
    """Returns a function that prints the mean training losses at the end of each epoch."""
    means: list[str] = []

    def tick(run: Run) -> None:
        epoch, rest = divmod(len(run.losses), steps_per_epoch)
        if rest:
            return
        means.append(f"{run.name} {sum(run.losses[-steps_per_epoch:]) / steps_per_epoch:.4f}")
        if len(means) == runs:
            console.print(f"epoch {epoch}/{epochs}, mean loss: {', '.join(means)}", soft_wrap=True)
            means.clear()

    return tick
