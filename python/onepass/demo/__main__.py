"""The command line: `python -m onepass.demo [--data DIR] [--epochs 20] [--output demo]`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

BAD_INPUT, INTERRUPTED = 2, 130
_EXTRAS = ("rich", "matplotlib", "numpy")


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (--help lists the options)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code.

    Args:
        arguments: of the command line; None for those of this process.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    # Made now: nobody should train for minutes and then learn that the picture has no place.
    if wrong := _make_folder(options.output):
        parser.error(f"argument --output: {wrong}")
    try:
        from rich.console import Console

        from onepass.demo.idx import DataError
        from onepass.demo.session import demonstrate
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in _EXTRAS:
            raise
        parser.exit(BAD_INPUT, f"{parser.prog}: no {missing}: pip install 'onepass[demo]'\n")
    try:
        demonstrate(Console(markup=False, highlight=False), **vars(options))
    except DataError as error:
        parser.exit(BAD_INPUT, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, f"\n{parser.prog}: interrupted\n")
    return 0


def _parser() -> _Parser:
    parser = _Parser(
        prog="onepass.demo",
        description="Trains a small network on images with torch.optim.Adam and with "
        "onepass.Adam, from the same seed and with the same batches, and compares them. "
        "One thread is used, unless OMP_NUM_THREADS says otherwise.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        dest="folder",
        metavar="DIR",
        type=_folder,
        help="folder of the four MNIST-format IDX gzip files (default: Fashion-MNIST)",
    )
    parser.add_argument(
        "--epochs", metavar="N", type=_epochs, default=20, help="epochs (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default="demo",
        help="folder for the picture, made if need be (default: %(default)s)",
    )
    return parser


def _folder(text: str) -> Path:
    if not text or not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {text!r}")
    return Path(text)


def _epochs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, got {text!r}")
    return int(text)


def _make_folder(path: Path) -> str | None:
    """Makes the folder for the picture; returns what is wrong when that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"no folder '{path}': {error.strerror}"
    return None if os.access(path, os.W_OK) else f"folder '{path}' is not writable"


if __name__ == "__main__":
    sys.exit(main())
