"""Writes docs/algorithms.md from the docstrings; tests/test_docs.py holds them together."""

import inspect
import re
import runpy
import sys
from pathlib import Path

import onepass
from onepass.rules import RULES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "algorithms.md"

TOP = """\
# The algorithms

`python tools/algorithms.py` writes this page from the docstrings. p is the parameter, g_t its
gradient (negated with `maximize`), t the step from 1 on. The pictures are drawn by `make gallery`.

{pictures}

"""


def pictures() -> str:
    """Returns a table of the gallery."""
    scenes = runpy.run_path(str(ROOT / "examples" / "gallery.py"))["SCENES"]
    cells = [f"![{scene.title}](gallery/{name}.png)" for name, scene in scenes.items()]
    rows = [f"| {' | '.join(cells[k : k + 3])} |" for k in (0, 3)]
    return "\n".join([rows[0], "|---|---|---|", rows[1]])


def sections(cls: type) -> dict[str, str]:
    """Returns the parts of a docstring: "" is its head, the others stand under their names."""
    found, name = {"": ""}, ""
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
        title = re.fullmatch(r"(\w[\w .]*):", line)
        if title:
            name = title[1]
            found[name] = ""
        else:
            found[name] += line.strip() + "\n" if name else line + "\n"
    return found


def entry(cls: type) -> str:
    """Returns the part of the page about one class."""
    part = sections(cls)
    first, _, formula = part.pop("").partition("\n\n.. code-block:: text\n\n")
    code, _, rest = formula.partition("\n\n")
    header = next(
        path
        for path in sorted((ROOT / "csrc" / "rules").glob("*.h"))
        if f'kName = "{cls.rule}"' in path.read_text()
    )
    differs = next(name for name in part if name.startswith("Differs"))
    lines = [f"## {cls.__name__}", "", first.partition(": ")[2].strip(), "", "```text"]
    lines += [line[4:] for line in code.rstrip().splitlines()]
    lines += ["```", ""]
    if rest.strip():
        lines += [rest.strip(), ""]
    for name in ("Source", "State", "Use it for", differs):
        text = " ".join(part[name].replace("-\n", "-").split()).replace("``", "`")
        lines += [f"- **{name}:** {text}"]
    lines += [f"- **Code:** [{header.name}](../csrc/rules/{header.name})"]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Returns the whole page."""
    classes = {cls.rule: cls for cls in vars(onepass).values() if hasattr(cls, "rule")}
    return TOP.format(pictures=pictures()) + "\n".join(entry(classes[rule]) for rule in RULES)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text() != page())
    PAGE.write_text(page())
