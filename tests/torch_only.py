"""A program that knows torch and not onepass: goes on with checkpoints and saves them again.

Arguments: the file to read, the file to write.
"""

from __future__ import annotations

import sys
from typing import Any

import torch


def go_on(saved: dict[str, Any]) -> None:
    groups = [{"params": [p.requires_grad_() for p in params]} for params in saved["params"]]
    optimizer = getattr(torch.optim, saved["class"])(groups)
    optimizer.load_state_dict(saved["optimizer"])
    for grads in saved["grads"]:
        params = (param for group in groups for param in group["params"])
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        optimizer.step()
    saved["params"] = [[p.detach() for p in group["params"]] for group in groups]
    saved["optimizer"] = optimizer.state_dict()


def main(source: str, target: str) -> None:
    runs = torch.load(source, weights_only=True)
    for saved in runs.values():
        go_on(saved)
    if any(name.split(".")[0] == "onepass" for name in sys.modules):
        raise SystemExit("onepass was imported")
    torch.save(runs, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
