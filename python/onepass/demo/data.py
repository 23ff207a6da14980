"""Chooses and loads the images: a folder, Fashion-MNIST, or scikit-learn's digits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onepass.demo import debian
from onepass.demo.idx import DataError, read_idx

CLASSES = 10
IMAGE_FILES = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
LABEL_FILES = {"train": "train-labels-idx1-ubyte.gz", "test": "t10k-labels-idx1-ubyte.gz"}
_DIGITS_FOR_TESTING = 297


@dataclass(frozen=True, eq=False)
class Part:
    """Images as float32 rows in [0, 1], and their labels."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train on and images to test with."""

    name: str
    train: Part
    test: Part

    def __str__(self) -> str:
        """Names the set and its sizes."""
        return f"{self.name}: {len(self.train.labels):,} + {len(self.test.labels):,} images"


def choose(folder: Path | None, say: Callable[[str], None]) -> Dataset:
    """Loads the images of a folder, else Fashion-MNIST, else scikit-learn's digits.

    Args:
        folder: where the four MNIST-format files lie, or None.
        say: is told, in one line each, what takes time and what was not to be had.

    Raises:
        DataError: the files are missing or damaged, or there is no data at all.
    """
    if folder is not None:
        return load_folder(folder, str(folder))
    found = debian.find()
    if found is None:
        say(f"Getting Fashion-MNIST (31 MB): Debian's package {debian.PACKAGE}, through apt ...")
        try:
            found = debian.obtain()
        except debian.AptError as error:
            say(f"NOT Fashion-MNIST, which cannot be had here: {error}")
            say("Instead: scikit-learn's digits, a far smaller and easier set of 8x8 images.")
            return load_digits()
    return load_folder(found, "Fashion-MNIST")


def load_folder(folder: Path, name: str) -> Dataset:
    """Loads the four MNIST-format files of a folder.

    Args:
        folder: where they lie.
        name: what to call the set.

    Raises:
        DataError: the folder or a file is missing or damaged, or they do not fit together.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with the MNIST-format files")
    files = (*IMAGE_FILES.values(), *LABEL_FILES.values())
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise DataError(
            f"{folder}: lacks {', '.join(missing)}; expected the four files of an MNIST-format set"
        )
    train, test = _load_part(folder, "train"), _load_part(folder, "test")
    if train.images.shape[1] != test.images.shape[1]:
        raise DataError(
            f"{folder / IMAGE_FILES['test']}: images of {test.images.shape[1]} pixels, "
            f"expected {train.images.shape[1]} as in {IMAGE_FILES['train']}"
        )
    return Dataset(name, train, test)


def load_digits() -> Dataset:
    """Loads scikit-learn's 1797 images of 8x8 pixels, shuffled once and split.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ModuleNotFoundError:
        raise DataError(
            "no images: scikit-learn is missing too (pip install scikit-learn)"
        ) from None
    pixels, labels = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[_DIGITS_FOR_TESTING:], order[:_DIGITS_FOR_TESTING]
    return Dataset(
        "scikit-learn digits",
        _part(pixels[train], labels[train], white=16),
        _part(pixels[test], labels[test], white=16),
    )


def _load_part(folder: Path, part: str) -> Part:
    images_path, labels_path = folder / IMAGE_FILES[part], folder / LABEL_FILES[part]
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.size == 0:
        raise DataError(f"{images_path}: holds no pixels (sizes {images.shape}), expected images")
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: {len(labels)} labels, expected {len(images)}, "
            f"one for each image in {images_path.name}"
        )
    if labels.max() >= CLASSES:
        raise DataError(f"{labels_path}: label {labels.max()}, expected 0 to {CLASSES - 1}")
    return _part(images.reshape(len(images), -1), labels, white=255)


def _part(pixels: NDArray[np.generic], labels: NDArray[np.generic], white: int) -> Part:
    images = torch.from_numpy(pixels.astype(np.float32)).div_(white)
    return Part(images, torch.from_numpy(labels.astype(np.int64)))
