"""What all tests share: isolated random numbers, restored settings, markers that may be fatal."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from onepass import _C


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    """Seeds every test alike, and puts back what a test may have changed for the whole process."""
    torch.manual_seed(0)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    # Two workers on two cores: a thread pool each would make small operations wait for one another.
    torch.set_num_threads(1)
    instruction_set = _C.build_info()["instruction_set"]
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    _C.set_instruction_set(instruction_set)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests that need a GPU where there is none, unless REQUIRE_CUDA=1 says there must be."""
    if torch.cuda.is_available() or os.environ.get("REQUIRE_CUDA") == "1":
        return
    skip = pytest.mark.skip(reason="needs a CUDA device; REQUIRE_CUDA=1 makes this a failure")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)
