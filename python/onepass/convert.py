"""Optimizers by name, and from torch's live ones to ours and back."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from torch.optim.optimizer import Optimizer, ParamsT

from . import optimizers
from .codes import to_float32_state_dict
from .optimizer import OnePass
from .options import in_use, torchs_class


def create(name: str, params: ParamsT, **options: Any) -> OnePass:
    """Returns an optimizer by its name, as scripts take it from a command line or a file.

    Args:
        name: a class of onepass; case, ``_`` and ``-`` do not count.
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        options: arguments of the class.

    Raises:
        ValueError: there is no such class, or an option is out of its range.
        TypeError: the class has no such option.

    Example:
        >>> import torch, onepass
        >>> onepass.create("adamw", [torch.zeros(2)], lr=0.1).defaults["lr"]
        0.1
    """
    return class_named(name)(params, **options)  # type: ignore[no-any-return]


def class_named(name: str) -> Any:
    """Returns the class of a name in any spelling, or raises a ValueError that names near ones."""
    known = {cls.lower(): cls for cls in optimizers.__all__}
    wanted = name.lower().replace("_", "").replace("-", "")
    if wanted not in known:
        hint = did_you_mean(wanted, optimizers.__all__) or "."
        raise ValueError(
            f"onepass has no optimizer {name!r}{hint} It has {', '.join(optimizers.__all__)}"
        )
    return getattr(optimizers, known[wanted])


def did_you_mean(wanted: str, names: Iterable[str]) -> str:
    """Returns the end of a message that names what is near; nothing where nothing is."""
    known = {name.lower(): name for name in names}
    wanted = wanted.lower()
    matches = difflib.get_close_matches(wanted, known, n=8)
    matches.sort(key=lambda one: not one.startswith(wanted[:3]))  # and then by similarity
    near = [known[one] for one in matches[:3]]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def from_torch(optimizer: Optimizer) -> OnePass:
    """Returns our optimizer over the same parameters, with torch's options and a copy of its state.

    The next step is the one that torch's would have taken. Step hooks stay behind, and a scheduler
    goes on with the optimizer that it was made for: make both anew.

    Args:
        optimizer: one of a class of ``torch.optim`` that onepass has, or of a subclass.

    Raises:
        TypeError: onepass has no such class.

    Example:
        >>> import torch, onepass
        >>> theirs = torch.optim.SGD([torch.zeros(2)], lr=0.1, momentum=0.9)
        >>> type(onepass.from_torch(theirs))
        <class 'onepass.optimizers.sgd.SGD'>
    """
    if isinstance(optimizer, OnePass):
        raise TypeError(f"{type(optimizer).__name__} is one of onepass's classes already")
    theirs = torchs_class(type(optimizer))
    if theirs is None or theirs.__name__ not in optimizers.__all__:
        raise TypeError(
            f"onepass has no {type(optimizer).__name__}; it has {', '.join(optimizers.__all__)}"
        )
    cls = getattr(optimizers, theirs.__name__)
    return _over_the_same(optimizer, cls)  # type: ignore[no-any-return]


def to_torch(optimizer: OnePass) -> Optimizer:
    """Returns torch's optimizer over the same parameters, with our options and a copy of our state.

    Decay that rows without a gradient have missed is caught up with first. Torch casts moments to
    the dtype of their parameter. Step hooks and schedulers stay behind, as in ``from_torch``.

    Args:
        optimizer: one of a class that torch has too.

    Raises:
        TypeError: torch has no such class.
        ValueError: an option is in use that torch's class lacks; nothing has changed.

    Example:
        >>> import torch, onepass
        >>> type(onepass.to_torch(onepass.SGD([torch.zeros(2)], lr=0.1)))
        <class 'torch.optim.sgd.SGD'>
    """
    cls = torchs_class(type(optimizer))
    if cls is None:
        raise TypeError(f"torch.optim has no {type(optimizer).__name__}")
    for index, group in enumerate(optimizer.param_groups):
        extras = in_use(type(optimizer), group)
        if extras:
            raise ValueError(
                f"parameter group {index} uses {', '.join(extras)}, which torch.optim."
                f"{cls.__name__} lacks; set them to None or False first"
            )
    optimizer.catch_up()
    return _over_the_same(optimizer, cls)  # type: ignore[no-any-return]


def _over_the_same(source: Optimizer, cls: Any) -> Any:
    """Returns an optimizer of another class with the parameters, options and state of one."""
    known = inspect.signature(cls).parameters
    groups = []
    for group in source.param_groups:
        params = group["params"]
        names = group.get("param_names")
        groups.append(
            {"params": params if names is None else list(zip(names, params, strict=True))}
        )
    target = cls(groups, **{key: v for key, v in source.defaults.items() if key in known})
    given = to_float32_state_dict(source) if isinstance(source, OnePass) else source.state_dict()
    target.load_state_dict(given)  # the groups' own options too
    return target
