"""What all tests share: isolated random numbers, restored settings, markers that may be fatal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from onepass import _C
from tests.support import KIND_CASES


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--emulate",
        choices=["elements", "all"],
        help="step by the kernels for CUDA, in a build with ONEPASS_CUDA=emulate: tensors of the "
        "CPU are taken for those of a device, all or all but numbers",
    )


@pytest.fixture(autouse=True)
def emulated(request: pytest.FixtureRequest) -> Iterator[None]:
    """Lets kernels take every step, where the command line asks for it."""
    mode = request.config.getoption("--emulate")
    if mode is None:
        yield
        return
    _C.emulation.use(mode)
    yield
    _C.emulation.use("none")


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


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of one process over gloo."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group(
        "gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def mesh(process_group: None) -> Any:
    """One process that is a mesh."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (1,))


@pytest.fixture
def offline_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps the libraries of Hugging Face from the Internet and from each other's state."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def without_compiler() -> Iterator[None]:
    """Lets torchao step by the code that it otherwise compiles: seconds for each set of options."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m does not ask for
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the rows of thorough tests but one of each kind to `test-all`; skips tests for a GPU.

    With REQUIRE_CUDA=1 a GPU that is not there is a failure.
    """
    if not hasattr(_C, "emulation"):  # a promise of another build, run by make test-all
        config.hook.pytest_deselected(items=[item for item in items if "emulated" in item.keywords])
        items[:] = [item for item in items if "emulated" not in item.keywords]
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")
        if "thorough" in item.keywords and case is not None and case not in KIND_CASES:
            item.add_marker(pytest.mark.slow)
    if torch.cuda.is_available() or os.environ.get("REQUIRE_CUDA") == "1":
        return
    skip = pytest.mark.skip(reason="needs a CUDA device; REQUIRE_CUDA=1 makes this a failure")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)
