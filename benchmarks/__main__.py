"""The command line: one typer sub-command per benchmark."""

from typing import Annotated

import typer

from benchmarks import (
    algorithms,
    curves,
    embedding,
    gpu,
    host,
    memory,
    overhead,
    page,
    results,
    startup,
    step,
    storage,
    training,
)
from benchmarks.measuring import Folder

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command("step")(step.command)
app.command("algorithms")(algorithms.command)
app.command("curves")(curves.command)
app.command("overhead")(overhead.command)
app.command("storage")(storage.command)
app.command("memory")(memory.command)
app.command("startup")(startup.command)
app.command("training")(training.command)
app.command("embedding")(embedding.command)
app.command("gpu")(gpu.command)
app.command("host")(host.command)
app.command("page")(page.command)


@app.callback()
def main() -> None:
    """Measure onepass beside its peers; results go to benchmarks/results/."""


@app.command("all")
def everything(
    rounds: Annotated[int, typer.Option(min=9, help="Rounds per workload.")] = 9,
    folder: Folder = results.FOLDER,
) -> None:
    """All that a CPU can measure, with one and with all threads; takes one to two hours."""
    for threads in (0, 1):
        for suite in ("promised", "models"):
            step.command(suite=suite, rounds=rounds, threads=threads, folder=folder)
        algorithms.command(rounds=rounds, threads=threads, folder=folder)
    step.command(suite="models", dtype="bfloat16", rounds=rounds, folder=folder)
    algorithms.command(dtype="bfloat16", rounds=rounds, folder=folder)
    for benchmark in (curves, overhead, storage, training, embedding):
        benchmark.command(rounds=rounds, folder=folder)
    for benchmark in (memory, startup):
        benchmark.command(folder=folder)


if __name__ == "__main__":
    app()
