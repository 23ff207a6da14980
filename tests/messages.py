"""The texts of the errors that the sources raise, with an ellipsis for what differs each time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

VARIES = "…"
_LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)


def sources() -> list[Path]:
    """Returns the files whose errors a user can meet."""
    python = sorted((ROOT / "python" / "onepass").rglob("*.py"))
    return [*python, *sorted((ROOT / "csrc").rglob("*.cpp")), *sorted((ROOT / "csrc").rglob("*.h"))]


def texts(path: Path) -> str:
    """Returns all texts of a file, those that make one message joined, a line each."""
    if path.suffix == ".py":
        return "\n".join(_of_python(ast.parse(path.read_text())))
    return _of_cpp(path.read_text())


def _of_python(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(_piece(value) for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _piece(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else VARIES


def _of_cpp(text: str) -> str:
    """Joins literals between which nothing but a comma stands; other operands are an ellipsis."""
    text = _COMMENT.sub("", text)
    pieces, end = [], 0
    for literal in _LITERAL.finditer(text):
        between = text[end : literal.start()]
        if re.search(r"[;{}]", between):
            pieces.append("\n")
        elif between.strip(" \t\n,"):
            pieces.append(VARIES)
        pieces.append(literal[1].replace('\\"', '"'))
        end = literal.end()
    return "".join(pieces)
