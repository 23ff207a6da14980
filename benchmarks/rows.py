"""Results that are a plain table: printed, and written as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine, report, results
from benchmarks.timing import Settings

Row = dict[str, Any]


def publish(title: str, rows: Sequence[Row], settings: Settings, folder: Path, legend: str) -> None:
    """Print the rows under a legend and write them; all have the keys of the first."""
    result = results.document(title, machine.describe(), settings, [])
    result = {**result, "legend": legend, "rows": list(rows)}
    console = Console()
    if not console.is_terminal:
        console.width = report.PLAIN_WIDTH
    console.print(title, legend, sep="\n", highlight=False)
    console.print(table(rows, console))
    path = folder / f"{results.file_stem(title.split()[0])}.json"
    results.save(result, path)
    console.print(f"Written: {path.name} in {folder.name}/")


def table(rows: Sequence[Row], console: Console) -> Table:
    """The rows with their keys as columns; what is the same as above is left out."""
    made = Table(box=report.style(console), pad_edge=False)
    for number, key in enumerate(rows[0]):
        made.add_column(key, justify="left" if number < 2 else "right")
    above = None
    for row in rows:
        first, *others = row.values()
        made.add_row("" if first == above else str(first), *map(shown, others))
        above = first
    return made


def shown(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return report.VERDICTS[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
