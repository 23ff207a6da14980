"""Which versions of torch and Python onepass works with: said here, and read by all others.

The build and the benchmarks read this file by its path, and a Python that is too old must be told
so: it takes no import but that of the standard library, and no syntax newer than Python 3.7.
"""

from __future__ import annotations

import re

TORCH = ((2, 9), (2, 15))  # the oldest and the newest minor version
PYTHON = ((3, 10), (3, 14))
PYTHON_TO_TAKE = "3.13"  # the newest that the tests run on


def minor(version: str) -> tuple[int, int]:
    """Returns the first two numbers of a version: (2, 13) for "2.13.0a0+git12ab"."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def text(version: tuple[int, int]) -> str:
    """Returns a minor version as it is written: "2.13" for (2, 13)."""
    return f"{version[0]}.{version[1]}"


REQUIREMENT = f"torch>={text(TORCH[0])},<{text((TORCH[1][0], TORCH[1][1] + 1))}"
WORKS_WITH = (
    f"torch {text(TORCH[0])} to {text(TORCH[1])} and Python {text(PYTHON[0])} to {text(PYTHON[1])}"
)
INSTALL_TORCH = f'pip install "{REQUIREMENT}"'
INSTALL_PYTHON = f"in the folder of onepass's source: python{PYTHON_TO_TAKE} -m pip install ."


def is_supported(torch: str) -> bool:
    """Returns whether onepass works with this version of torch."""
    return TORCH[0] <= minor(torch) <= TORCH[1]


def obstacle(python: tuple[int, int], torch: str | None = None) -> str | None:
    """Returns why onepass cannot work here and the command that repairs it; None where it can.

    Args:
        python: the first two numbers of Python's version.
        torch: torch's version; None is any that fits (None).
    """
    if not PYTHON[0] <= python <= PYTHON[1]:
        here, fix = f"Python {text(python)}", INSTALL_PYTHON
    elif torch is not None and not is_supported(torch):
        here, fix = f"torch {torch}", INSTALL_TORCH
    else:
        return None
    return f"onepass works with {WORKS_WITH}; here is {here}.\nFix:  {fix}"
