"""The images of the perceptron: a folder of yours, Fashion-MNIST, or scikit-learn's digits."""

import gzip
import os
import struct
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

Part = tuple[Tensor, Tensor]  # images as float32 rows in [0, 1], and their labels

INSTALLED = Path("/usr/share/datasets/fashion-mnist")  # in Debian's dataset-fashion-mnist
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "onepass/fashion-mnist")

# Lists of packages of its own: they need no root, and a fresh container has none.
DOWNLOAD = """
apt() {
    apt-get -qq -o Dir::State::Lists="$PWD/lists" -o Dir::Cache="$PWD" -o APT::Sandbox::User=root \\
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@"
}
mkdir lists && apt update && apt download dataset-fashion-mnist && dpkg-deb -x *.deb .
"""


@dataclass(frozen=True, eq=False)
class Images:
    """Images to train on and images to test with."""

    name: str
    train: Part
    test: Part


def load(folder: Path | None) -> Images:
    """Returns a folder's images; without one Fashion-MNIST, or the digits, which it then says.

    Raises:
        ValueError: a file is missing or damaged, or does not fit the others.
    """
    if folder is not None:
        return read_folder(folder, str(folder))
    try:
        found = fashion_mnist()
    except OSError as error:
        print(f"NOT Fashion-MNIST, which cannot be had here: {error}")
        print("Instead: scikit-learn's digits, a far smaller and easier set of 8x8 images.")
        return digits()
    return read_folder(found, "Fashion-MNIST")


def fashion_mnist() -> Path:
    """Returns the folder of Debian's package, which is downloaded where it is not installed.

    Raises:
        OSError: it cannot be downloaded.
    """
    for folder in (INSTALLED, CACHE):
        if folder.is_dir():
            return folder
    print("Getting Fashion-MNIST (31 MB): a Debian package, through apt ...", flush=True)
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
        if subprocess.run(["sh", "-c", DOWNLOAD], cwd=scratch).returncode != 0:
            raise OSError("apt could not download dataset-fashion-mnist, for the reason above")
        # One rename, so that nobody ever sees half a folder.
        Path(scratch, *INSTALLED.parts[1:]).rename(CACHE)
    return CACHE


def digits() -> Images:
    """Returns scikit-learn's 1797 images of 8x8 pixels, shuffled once and split."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = (part(pixels[of], labels[of], white=16) for of in (order[297:], order[:297]))
    return Images("scikit-learn's digits", train, test)


def read_folder(folder: Path, name: str) -> Images:
    """Reads the four files of a set in MNIST's format, or raises ValueError."""
    parts = []
    for prefix in ("train", "t10k"):
        images_path = folder / f"{prefix}-images-idx3-ubyte.gz"
        pixels = read_idx(images_path, 3)
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 1)
        if len(pixels) != len(labels) or pixels.size == 0:
            raise ValueError(f"{images_path}: images {pixels.shape} for {len(labels)} labels")
        parts.append(part(pixels.reshape(len(pixels), -1), labels, white=255))
    train, test = parts
    if train[0].shape[1] != test[0].shape[1] or test[1].max() > train[1].max():
        raise ValueError(f"{folder}: images to train on and to test with differ in size or classes")
    return Images(name, train, test)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Returns the array of an IDX file: a big-endian header, then unsigned bytes, all gzipped."""
    try:
        content = gzip.decompress(path.read_bytes())
        magic, *shape = struct.unpack_from(f">{dimensions + 1}I", content)
        if magic != 0x0800 + dimensions:
            raise ValueError(f"magic number 0x{magic:08x}")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except OSError as error:  # also of gzip, which has no strerror
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (EOFError, zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"{path}: not a sound file in MNIST's format: {error}") from None


def part(pixels: NDArray[np.generic], labels: NDArray[np.generic], white: int) -> Part:
    """Returns tensors: pixels from 0 for black to 1 for white, and labels."""
    images = torch.from_numpy(pixels.astype(np.float32)).div_(white)
    return images, torch.from_numpy(labels.astype(np.int64))
