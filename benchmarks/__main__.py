"""The command line: one typer sub-command per benchmark."""

import typer

from benchmarks import algorithms, embedding, gpu, host, step

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command("step")(step.command)
app.command("algorithms")(algorithms.command)
app.command("embedding")(embedding.command)
app.command("gpu")(gpu.command)
app.command("host")(host.command)


@app.callback()
def main() -> None:
    """Measure onepass beside its peers; results go to benchmarks/results/."""


if __name__ == "__main__":
    app()
