"""Adadelta, over the class of that name in ``torch.optim``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of


class Adadelta(OnePass, torch.optim.Adadelta):
    r"""Adadelta: steps in units of earlier steps, so that no rate has to be found.

    .. code-block:: text

        g_t = grad + weight_decay p
        v_t = rho v_(t-1) + (1 - rho) g_t^2
        d_t = sqrt(u_(t-1) + eps) / sqrt(v_t + eps) g_t
        u_t = rho u_(t-1) + (1 - rho) d_t^2
        p  -= lr d_t

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1.0).
        rho: how much of the means is kept at each step, in [0, 1] (0.9).
        eps: added inside both roots, >= 0; sets the size of the first steps (1e-6).
        weight_decay: weight_decay p is added to the gradient, >= 0 (0).
        foreach: accepted for torch's sake; the result is the same (None).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        maximize: climb instead of descend (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        differentiable: let autograd see the step, by torch's own code (False).
        state_dtype: dtype of the states: float32, float64, bfloat16, float16 or int8; None is the
            parameter's own, and float32 for float16 parameters. int8 stores codes of 8 bits and,
            under ``<state>_exponent``, one exponent for 64 of a row; parameters of one dimension
            keep float32. CPU only so far (None).
        max_grad_norm: the largest norm of all gradients together, > 0. Where theirs is larger, the
            step takes them scaled down to it, as after clip_grad_norm_; ``.grad`` stays as it is
            and opt.grad_norm tells their norm. CPU only so far (None).
        skip_nonfinite: take no step at all where that norm is infinite or NaN (False).
        stochastic_rounding: round bfloat16 and float16 parameters up or down with the probability
            that keeps the mean exact, so that small updates are not lost; CPU only so far (False).
        state_rounding: "stochastic" rounds states of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``square_avg`` and ``acc_delta``: the parameter's shape,
        ``state_dtype``; 8 bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        no rate can be tuned; seldom the fastest.

    Source:
        Zeiler 2012, algorithm 1.

    Differs from torch.optim.Adadelta in:
        the keyword-only state_dtype, max_grad_norm, skip_nonfinite, stochastic_rounding and
        state_rounding; float32 states for float16 parameters; infinite hyper-parameters are
        refused; float32 arithmetic for bfloat16 and float16, rounded once at the end of the step.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.Adadelta([weight])
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9968, 0.9968, 0.9968])
    """

    rule = "adadelta"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-06,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
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
