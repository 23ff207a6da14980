"""Options of a parameter group that are no numbers: which there are, and which go together."""

from __future__ import annotations

from typing import Any

# Options of ours that torch's classes do not have, and those that only some of them have.
OURS = ("eps_root", "decouple_lr", "cautious", "state_dtype")
EVERYWHERE = ("capturable", "fused")


def options_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the options among the locals() of a constructor that has done nothing yet."""
    return {k: v for k, v in arguments.items() if k not in ("self", "params", "__class__")}


def check_options(group: dict[str, Any]) -> None:
    """Refuses what is no flag, and options that exclude each other, if it can in torch's words."""
    for name in EVERYWHERE:
        value = group.get(name)
        if not isinstance(value, (bool, int, type(None))):
            raise ValueError(f"Invalid {name} value: {value!r} (it must be True or False)")
    if group.get("fused") and group.get("differentiable"):
        raise RuntimeError("`fused` does not support `differentiable`")
    if group.get("fused") and group.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    ours = [name for name in OURS if group.get(name)]
    if group.get("differentiable") and ours:
        raise ValueError(
            f"differentiable=True takes torch's own path, which has no {ours[0]}; leave one out"
        )
