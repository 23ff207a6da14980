"""Momentum, which ``torch.optim`` has only as an option of SGD."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of


class Momentum(OnePass):
    r"""Momentum: steps along an exponential moving average of the gradients.

    .. code-block:: text

        g_t = grad + weight_decay p  (decoupled: p *= 1 - lr weight_decay instead)
        v_t = momentum v_(t-1) + (1 - momentum) g_t
        p  -= lr v_t                 (nesterov: momentum v_t + (1 - momentum) g_t for v_t)

    With bias_correction the average is divided by the sum of its weights: 1 - momentum^t, with
    nesterov 1 - momentum^(t+1).

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-3).
        momentum: how much of the average is kept at each step, in [0, 1) (0.9).
        weight_decay: weight_decay p is added to the gradient, >= 0 (0).
        bias_correction: make up for the average's start at 0 (False).
        nesterov: look ahead along the average (False).
        decoupled_weight_decay: decay as AdamW does (False).
        maximize: climb instead of descend (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        decouple_lr: decoupled decay by weight_decay lr / (the largest lr so far), so that it
            follows the schedule of lr but does not depend on its size (False).
        state_dtype: dtype of the average: float32, float64, bfloat16, float16 or int8; None is the
            parameter's own, and float32 for float16 parameters. int8 stores codes of 8 bits and,
            under ``<state>_exponent``, one exponent for 64 of a row; parameters of one dimension
            keep float32. CPU only so far (None).
        max_grad_norm: the largest norm of all gradients together, > 0. Where theirs is larger, the
            step takes them scaled down to it, as after clip_grad_norm_; ``.grad`` stays as it is
            and opt.grad_norm tells their norm. CPU only so far (None).
        skip_nonfinite: take no step at all where that norm is infinite or NaN (False).
        stochastic_rounding: round bfloat16 and float16 parameters up or down with the probability
            that keeps the mean exact, so that small updates are not lost; CPU only so far (False).

    State:
        ``step``: 0-dim float32, 4 bytes. ``exp_avg``: the parameter's shape, ``state_dtype``; 4
        bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        in place of SGD with momentum, where lr should not have to change with momentum.

    Source:
        Polyak 1964, with each gradient weighted by 1 - momentum; bias correction: Kingma and Ba
        2015, section 3; look-ahead: Sutskever et al. 2013, section 2.

    Differs from torch.optim.SGD in:
        SGD with a dampening equal to its momentum takes the same steps from a buffer that was set
        to 0 before the first; torch starts it at the first gradient.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.Momentum([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9800, 0.9800, 0.9800])
    """

    rule = "momentum"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Tensor = 0.9,
        weight_decay: float = 0,
        *,
        bias_correction: bool = False,
        nesterov: bool = False,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        decouple_lr: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))
