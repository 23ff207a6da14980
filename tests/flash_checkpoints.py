"""Writes checkpoints of FlashOptim: `python -m tests.flash_checkpoints FILE`, TRITON_INTERPRET=1.

FlashOptim packs states on a GPU only. The kernels that pack and unpack them run on a CPU in the
interpreter of Triton, which must be asked for before Triton is imported: hence another process.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.migration import REQUIREMENTS
from tests.migration_walks import Walk
from tests.support import make_params

OPTIONS: dict[str, dict[str, Any]] = {"Adam": {}, "AdamW": {}, "Lion": {}, "SGD": {"momentum": 0.8}}
ON_A_CPU = {"quantize": False, "fused": False, "master_weight_bits": None}


def flashoptim() -> Any:
    """Returns the module; without the library, a skip."""
    if os.environ.get("REQUIRE_PEERS") != "1":
        for name in ("triton", "flashoptim"):
            pytest.importorskip(name, reason=f"pip install -r {REQUIREMENTS}, or make test-peers")
    return importlib.import_module("flashoptim.optimizers")


def pack(module: Any, optimizer: Any) -> dict[int, dict[str, Tensor]]:
    """Packs the states that are floats on a CPU; returns them as FlashOptim unpacks them."""
    unpacked: dict[int, dict[str, Tensor]] = {}
    for number, own in enumerate(optimizer.state.values()):
        unpacked[number] = {}
        for key, spec in optimizer.quantized_state_spec.items():
            kept = own[key]
            how = {"signed": spec.signed, "sqrt": spec.sqrt, "softsign": spec.softsign}
            kept._quantized, kept._scales = module.quantize(kept._data, **how)
            kept._data = None
            unpacked[number][key] = kept.materialize()
    return unpacked


def main(path: str) -> None:
    module, made = flashoptim(), {}
    for kernel in (module._triton_quantize_kernel, module._triton_dequantize_kernel):
        kernel.configs = kernel.configs[:1]  # there is nothing to time
    module._get_sm_count = lambda: 2
    for name, options in OPTIONS.items():
        for dtype in (torch.float32, torch.bfloat16):
            params = make_params(((96, 70), (33,), (64, 64)), dtype)
            cls = getattr(module, f"Flash{name}")
            optimizer = Walk(cls(params, lr=0.02, **ON_A_CPU, **options)).go(0, 7).optimizer
            unpacked = pack(module, optimizer)
            key = f"{name}-{str(dtype).removeprefix('torch.')}"
            made[key] = {"saved": optimizer.state_dict(), "unpacked": unpacked}
    torch.save(made, path)


if __name__ == "__main__":
    main(sys.argv[1])
