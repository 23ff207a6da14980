"""Reads IDX files, the format of MNIST: a big-endian header, then unsigned bytes, all gzipped."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Two zero bytes, 0x08 for unsigned bytes, then the number of dimensions.
_UNSIGNED_BYTES = 0x0800


class DataError(Exception):
    """Data that cannot be used; the message is one line and names the file."""


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Returns the array in a gzipped IDX file of unsigned bytes.

    Args:
        path: the file.
        dimensions: how many it must have: 3 for images, 1 for labels.

    Raises:
        DataError: the file cannot be read, is damaged, or holds something else.
    """
    content = _gunzip(path)
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(
            f"{path}: {len(content)} bytes unpacked, expected an IDX header of {header} bytes"
        )
    magic, *shape = struct.unpack_from(f">{dimensions + 1}I", content)
    if magic != _UNSIGNED_BYTES + dimensions:
        raise DataError(
            f"{path}: magic number 0x{magic:08x}, expected 0x{_UNSIGNED_BYTES + dimensions:08x} "
            f"(unsigned bytes in {dimensions} dimension{'s' if dimensions > 1 else ''})"
        )
    # Sizes are checked against what is there before anything of that size is made.
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: {len(content) - header} bytes after the header, expected "
            f"{math.prod(shape)} ({' x '.join(map(str, shape))})"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _gunzip(path: Path) -> bytes:
    """Returns what a gzip file holds."""
    try:
        with gzip.open(path) as file:
            return file.read()
    except EOFError:
        raise DataError(f"{path}: gzip file is truncated, expected a complete one") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a sound gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
