"""docs/migration.md read as data: a table for each class of another library, a row an argument."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import onepass
from tests.support import ROOT

PAGE = ROOT / "docs" / "migration.md"
REQUIREMENTS = "benchmarks/requirements-peers.txt"
NOTHING: Any = inspect.Parameter.empty  # where a table gives no value

PEER = (
    pytest.mark.slow,
    pytest.mark.peers,
    pytest.mark.filterwarnings("default"),  # the libraries' warnings are their own
)


@dataclass(frozen=True)
class Row:
    """An argument of theirs: what it is called here, or what it would have to be."""

    argument: str
    default: Any
    ours: str | None
    our_default: Any
    always: Any  # the value at which theirs does what ours always does
    remark: str

    def __str__(self) -> str:
        return self.argument

    @property
    def must_be(self) -> Any:
        """The value without which the two classes differ, where there is one."""
        found = re.search(r"Equal only at `([^`]+)`", self.remark)
        return value_of(found[1]) if found else self.always

    @property
    def is_ignored(self) -> bool:
        return self.remark.startswith("Ignored there")

    @property
    def is_refused(self) -> bool:
        return self.remark.startswith("Refused there")

    def translated(self, value: Any) -> Any:
        """Returns a value of theirs as ours: as it is, if the remark gives no pairs of values."""
        pairs = re.findall(r"`([^`]+)` is `([^`]+)`", self.remark)
        return {value_of(theirs): value_of(ours) for theirs, ours in pairs}.get(value, value)


@dataclass(frozen=True)
class Table:
    theirs: str
    ours: str
    also: tuple[str, ...]  # classes with some of the same arguments
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return f"{self.theirs}-{self.ours}"

    @property
    def package(self) -> str:
        return self.theirs.partition(".")[0]

    @property
    def our_class(self) -> Any:
        return getattr(onepass, self.ours)

    @property
    def needs_gpu(self) -> bool:
        return self.package == "apex" or self.theirs.split(".")[-1] in ("FusedLamb", "FusedLion")

    @property
    def holds_at_constant_lr(self) -> bool:
        return "while lr is constant" in self.row("lr").remark

    @property
    def their_class(self) -> Any:
        return self.their_classes[0]

    @property
    def their_classes(self) -> list[Any]:
        """The class of the table and those of the same arguments; without the library, a skip."""
        module, name = self.theirs.rsplit(".", 1)
        if os.environ.get("REQUIRE_PEERS") != "1":
            reason = f"needs {self.package}: pip install -r {REQUIREMENTS}, or make test-peers"
            pytest.importorskip(module, reason=reason)
        found = importlib.import_module(module)
        return [getattr(found, one) for one in (name, *self.also)]

    def row(self, argument: str) -> Row:
        return next(row for row in self.rows if row.argument == argument)

    def translated(self, options: dict[str, Any]) -> dict[str, Any]:
        """Returns options of theirs as options of ours."""
        return {
            row.ours: row.translated(value)
            for row, value in ((self.row(key), value) for key, value in options.items())
            if row.ours is not None
        }


def value_of(text: str) -> Any:
    """Returns the value that a table writes as Python would."""
    return eval(text, {"torch": torch})


def parameters_of(cls: Any) -> dict[str, inspect.Parameter]:
    """Returns the arguments of a constructor after the parameters, without **kwargs."""
    every = list(inspect.signature(cls.__init__).parameters.values())[2:]
    return {one.name: one for one in every if one.kind is not one.VAR_KEYWORD}


def _row(line: str) -> Row:
    theirs, default, ours, remark = (cell.strip() for cell in line.split("|")[1:-1])
    quoted = re.findall(r"`([^`]+)`", ours)
    always = ours.startswith("always")
    assert always or ours == "none" or ours.startswith("`"), line
    literal = default.startswith("`")
    return Row(
        argument=theirs.strip("`"),
        default=value_of(default.strip("`")) if literal else NOTHING,
        ours=quoted[0] if quoted and not always else None,
        our_default=value_of(quoted[1]) if len(quoted) > 1 else NOTHING,
        always=value_of(quoted[0]) if always else NOTHING,
        remark=remark,
    )


def _tables() -> tuple[Table, ...]:
    heading = r"^### `([\w.]+)` to `onepass\.(\w+)`\n"
    pieces = re.split(heading, PAGE.read_text(), flags=re.MULTILINE)[1:]
    tables = []
    for theirs, ours, text in zip(*(pieces[k::3] for k in range(3)), strict=True):
        text = text.split("\n#")[0]
        also = re.match(r"\s*Also (.*?)\.\s", text, re.DOTALL)
        names = re.findall(r"`(\w+)`", also[1]) if also else []
        rows = [_row(line) for line in re.findall(r"^\| `.*", text, re.MULTILINE)]
        tables.append(Table(theirs, ours, tuple(names), tuple(rows)))
    return tuple(tables)


TABLES = _tables()


def marked(table: Table, *more: Any, steps: bool = True) -> Any:
    """Returns the arguments of a test, marked by what it needs if it steps their class, or not."""
    marks = [] if table.package == "torch" else [*PEER, pytest.mark.xdist_group(table.package)]
    if table.package == "deepspeed" and steps:
        marks.append(pytest.mark.deepspeed)
    return pytest.param(table, *more, marks=marks, id="-".join(map(str, (table, *more))))


each_table = pytest.mark.parametrize("table", TABLES, ids=str)
each_cpu_table = pytest.mark.parametrize(
    "table", [marked(table) for table in TABLES if not table.needs_gpu]
)


def each_peer(*names: str) -> pytest.MarkDecorator:
    """Marks a test of some tables, named by the class of theirs, and of ours where it has two."""
    chosen = [table for table in TABLES if {table.theirs, str(table)} & set(names)]
    assert len(chosen) == len(names)
    return pytest.mark.parametrize("table", [marked(table) for table in chosen])
