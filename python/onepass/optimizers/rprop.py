"""Rprop, over the class of that name in ``torch.optim``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of


class Rprop(OnePass, torch.optim.Rprop):
    r"""Rprop: steps whose size depends on the signs of the gradients alone.

    .. code-block:: text

        f   = eta_plus, eta_minus or 1 where g_t g_(t-1) is positive, negative or 0
        s_t = s_(t-1) f, kept within step_sizes
        p  -= sign(g_t) s_t  (a parameter rests where f is eta_minus)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the size of the first steps, >= 0 (1e-2).
        etas: the factors (eta_minus, eta_plus), in (0, 1) and over 1 (0.5, 1.2).
        step_sizes: the smallest and the largest step, >= 0 (1e-6, 50).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        foreach: accepted for torch's sake; the result is the same (None).
        maximize: climb instead of descend (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        differentiable: let autograd see the step, by torch's own code (False).
        state_dtype: dtype of the states: float32, float64, bfloat16 or float16; None is the
            parameter's own, and float32 for float16 parameters (None).
        max_grad_norm: the largest norm of all gradients together, > 0. Where theirs is larger, the
            step takes them scaled down to it, as after clip_grad_norm_; ``.grad`` stays as it is
            and opt.grad_norm tells their norm. CPU only so far (None).
        skip_nonfinite: take no step at all where that norm is infinite or NaN (False).
        stochastic_rounding: round bfloat16 and float16 parameters up or down with the probability
            that keeps the mean exact, so that small updates are not lost; CPU only so far (False).
        state_rounding: "stochastic" rounds ``step_size`` of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``prev``, the gradient before, and ``step_size``: the
        parameter's shape, ``state_dtype``; 8 bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        full batches only: signs of noisy gradients say little.

    Source:
        Riedmiller and Braun 1993; the variant without backtracking: Igel and Huesken 2000.

    Differs from torch.optim.Rprop in:
        the keyword-only state_dtype, max_grad_norm, skip_nonfinite, stochastic_rounding and
        state_rounding; float32 states for float16 parameters; infinite hyper-parameters are
        refused; float32 arithmetic for bfloat16 and float16, rounded once at the end of the step;
        signs are compared without multiplying the gradients, whose product may underflow.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.Rprop([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """

    rule = "rprop"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-06, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
        state_rounding: str | None = None,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))
