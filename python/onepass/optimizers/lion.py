"""Lion, which ``torch.optim`` does not have."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass


class Lion(OnePass):
    r"""Lion: steps of one size along the signs of a mean of the gradients.

    .. code-block:: text

        p  *= 1 - lr weight_decay
        p  -= lr sign(beta1 m_(t-1) + (1 - beta1) g_t)
        m_t = beta2 m_(t-1) + (1 - beta2) g_t

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0; a third to a tenth of AdamW's (1e-4).
        betas: the mean's share in the step, and of itself in the next mean, each in [0, 1)
            (0.9, 0.99).
        weight_decay: the share of the parameter, times lr, that each step removes, >= 0; three to
            ten times AdamW's (0).
        maximize: climb instead of descend (False).
        decouple_lr: decay by weight_decay lr / initial_lr, so that it does not depend on the size
            of lr but follows its schedule (False).
        state_dtype: dtype of the mean: float32, float64, bfloat16 or float16; None is the
            parameter's own, and float32 for float16 parameters (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``exp_avg``: the parameter's shape, ``state_dtype``; 4
        bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        half of Adam's memory; large batches, with a smaller rate and a larger decay.

    Source:
        Chen et al. 2023, algorithm 2.

    Differs from torch.optim in:
        torch has no such class.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.Lion([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """

    rule = "lion"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        decouple_lr: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        self._extras = dict(decouple_lr=decouple_lr, state_dtype=state_dtype)
        defaults = dict(lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize)
        super().__init__(params, defaults)
