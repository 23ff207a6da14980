"""Drop-in optimizers for torch.optim: each step is one pass over memory.

>>> import torch, onepass
>>> model = torch.nn.Linear(2, 1)
>>> opt = onepass.AdamW(model.parameters(), lr=1e-3)
>>> isinstance(opt, torch.optim.AdamW)
True
"""

from ._native import C as _C  # first: it explains an import that fails

# isort: split
from . import ema
from .agreement import check
from .build import build_info
from .codes import to_float32_state_dict
from .convert import create, from_torch, to_torch
from .foreign import convert_state_dict
from .in_backward import in_backward
from .optimizers import *  # noqa: F403
from .optimizers import __all__ as _classes
from .state import state_bytes

__all__ = [
    *_classes,
    "build_info",
    "check",
    "convert_state_dict",
    "create",
    "ema",
    "from_torch",
    "in_backward",
    "state_bytes",
    "to_float32_state_dict",
    "to_torch",
]
__version__: str = _C.build_info()["version"]
