"""RMSprop, over the class of that name in ``torch.optim``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of


class RMSprop(OnePass, torch.optim.RMSprop):
    r"""RMSprop: steps divided by the root of a running mean of squared gradients.

    .. code-block:: text

        g_t = grad + weight_decay p
        v_t = alpha v_(t-1) + (1 - alpha) g_t^2
        d_t = g_t / (sqrt(v_t + eps_root) + eps)  (centered: v_t - a_t^2 for v_t, a_t the mean)
        p  -= lr d_t                              (momentum: lr b_t, b_t = momentum b_(t-1) + d_t)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-2).
        alpha: how much of the mean is kept at each step, in [0, 1] (0.99).
        eps: added to the root, >= 0 (1e-8).
        weight_decay: weight_decay p is added to the gradient, >= 0 (0).
        momentum: how much of the collected steps is kept, >= 0 (0).
        centered: divide by the root of the variance instead of the mean square (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        foreach: accepted for torch's sake; the result is the same (None).
        maximize: climb instead of descend (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        differentiable: let autograd see the step, by torch's own code (False).
        eps_root: added inside the root, >= 0 (0).
        state_dtype: dtype of the states: float32, float64, bfloat16, float16 or int8; None is the
            parameter's own, and float32 for float16 parameters. int8 stores codes of 8 bits and,
            under ``<state>_exponent``, one exponent for 64 of a row; parameters of one dimension
            and ``grad_avg`` keep float32. CPU only so far (None).
        max_grad_norm: the largest norm of all gradients together, > 0. Where theirs is larger, the
            step takes them scaled down to it, as after clip_grad_norm_; ``.grad`` stays as it is
            and opt.grad_norm tells their norm. CPU only so far (None).
        skip_nonfinite: take no step at all where that norm is infinite or NaN (False).
        stochastic_rounding: round bfloat16 and float16 parameters up or down with the probability
            that keeps the mean exact, so that small updates are not lost; CPU only so far (False).
        state_rounding: "stochastic" rounds ``square_avg`` of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``square_avg``, with momentum ``momentum_buffer`` and
        centered ``grad_avg``: the parameter's shape, ``state_dtype``; 4 to 12 bytes per float32
        element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a tensor does not fit. Nothing has changed then.

    Use it for:
        recurrent networks, reinforcement learning, gradients whose scale drifts.

    Source:
        Tieleman and Hinton 2012, lecture 6.5; centered: Graves 2013, equations 38 to 41.

    Differs from torch.optim.RMSprop in:
        the keyword-only eps_root, state_dtype, max_grad_norm, skip_nonfinite, stochastic_rounding
        and state_rounding; float32 states for float16 parameters; infinite hyper-parameters are
        refused; float32 arithmetic for bfloat16 and float16, rounded once at the end of the step; a
        variance that rounding makes negative counts as 0, where torch's step is NaN; alpha over 1
        is refused; sparse gradients are taken: rows without values stay where they are.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.RMSprop([weight], lr=0.01)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """

    rule = "rmsprop"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-08,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        eps_root: float = 0.0,
        fused: bool | None = None,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
        state_rounding: str | None = None,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))
