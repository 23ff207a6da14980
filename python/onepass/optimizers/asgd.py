"""ASGD, over the class of that name in ``torch.optim``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of


class ASGD(OnePass, torch.optim.ASGD):
    r"""ASGD: gradient descent that also averages the parameters.

    .. code-block:: text

        g_t = grad + weight_decay p
        p   = p (1 - lambd eta_t) - eta_t g_t  with eta_(t+1) = lr / (1 + lambd lr t)^alpha
        ax += mu_t (p - ax)                    with mu_(t+1) = 1 / max(1, t - t0)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-2).
        lambd: how strongly the parameter is drawn to 0, >= 0 (1e-4).
        alpha: the power of the rate's fall, >= 0 (0.75).
        t0: the step from which on parameters are averaged (1e6).
        weight_decay: weight_decay p is added to the gradient, >= 0 (0).
        foreach: accepted for torch's sake; the result is the same (None).
        maximize: climb instead of descend (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        differentiable: let autograd see the step, by torch's own code (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        state_dtype: dtype of the states: float32, float64, bfloat16 or float16; None is the
            parameter's own, and float32 for float16 parameters (None).
        max_grad_norm: the largest norm of all gradients together, > 0. Where theirs is larger, the
            step takes them scaled down to it, as after clip_grad_norm_; ``.grad`` stays as it is
            and opt.grad_norm tells their norm. CPU only so far (None).
        skip_nonfinite: take no step at all where that norm is infinite or NaN (False).
        stochastic_rounding: round bfloat16 and float16 parameters up or down with the probability
            that keeps the mean exact, so that small updates are not lost; CPU only so far (False).

    State:
        ``step``, ``eta`` and ``mu``: 0-dim float32, 4 bytes each. ``ax``, the average: the
        parameter's shape, ``state_dtype``; 4 bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        the average over the last iterates is wanted (convex problems, language models).

    Source:
        Polyak and Juditsky 1992; the rates: Bottou 2012, section 4.2.

    Differs from torch.optim.ASGD in:
        the keyword-only state_dtype, max_grad_norm, skip_nonfinite and stochastic_rounding; float32
        states for float16 parameters; infinite hyper-parameters are refused; float32 arithmetic for
        bfloat16 and float16, rounded once at the end of the step.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.ASGD([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.8000, 0.8000, 0.8000])
    """

    rule = "asgd"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        lambd: float = 0.0001,
        alpha: float = 0.75,
        t0: float = 1000000.0,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        fused: bool | None = None,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))
