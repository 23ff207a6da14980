"""Adamax, over the class of that name in ``torch.optim``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of


class Adamax(OnePass, torch.optim.Adamax):
    r"""Adamax: Adam with the largest gradient, slowly forgotten, for the root.

    .. code-block:: text

        g_t = grad + weight_decay p
        m_t = beta1 m_(t-1) + (1 - beta1) g_t
        u_t = max(beta2 u_(t-1), |g_t| + eps)
        p  -= lr / (1 - beta1^t) m_t / u_t

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (2e-3).
        betas: how much of the mean and of the norm is kept at each step, each in [0, 1) (0.9,
            0.999).
        eps: added to |g|, >= 0 (1e-8).
        weight_decay: weight_decay p is added to the gradient, >= 0 (0).
        foreach: accepted for torch's sake; the result is the same (None).
        maximize: climb instead of descend (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        differentiable: let autograd see the step, by torch's own code (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
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
        state_rounding: "stochastic" rounds ``exp_inf`` of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``exp_avg`` and ``exp_inf``: the parameter's shape,
        ``state_dtype``; 8 bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        gradients with rare large values, such as embeddings.

    Source:
        Kingma and Ba 2015, algorithm 2.

    Differs from torch.optim.Adamax in:
        the keyword-only state_dtype, max_grad_norm, skip_nonfinite, stochastic_rounding and
        state_rounding; float32 states for float16 parameters; infinite hyper-parameters are
        refused; float32 arithmetic for bfloat16 and float16, rounded once at the end of the step.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.Adamax([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """

    rule = "adamax"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
        state_rounding: str | None = None,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))
