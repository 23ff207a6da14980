"""Algorithms whose rate is set anew for each parameter, by norms; ``torch.optim`` has none."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of

__all__ = ["LAMB", "LARS", "NovoGrad"]


class LARS(OnePass):
    r"""LARS: momentum with a rate for each parameter that keeps its steps small beside it.

    .. code-block:: text

        rate = lr trust_coefficient |w| / (|g| + weight_decay |w| + eps)   (lr where a norm is 0)
        v_t  = momentum v_(t-1) + rate (g_t + weight_decay w)
        w   -= v_t

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1.0).
        momentum: how much of the step before is added, >= 0 (0.9).
        weight_decay: weight_decay w is added to the gradient, >= 0 (0).
        trust_coefficient: the size of a step beside its parameter, at lr = 1, >= 0 (1e-3).
        eps: added to the norms, >= 0 (1e-8).
        maximize: climb instead of descend (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        state_dtype: dtype of the buffer: float32, float64, bfloat16 or float16; None is the
            parameter's own, and float32 for float16 parameters (None).
        max_grad_norm: the largest norm of all gradients together, > 0. Where theirs is larger, the
            step takes them scaled down to it, as after clip_grad_norm_; ``.grad`` stays as it is
            and opt.grad_norm tells their norm. CPU only so far (None).
        skip_nonfinite: take no step at all where that norm is infinite or NaN (False).

    State:
        ``momentum_buffer``: the parameter's shape, ``state_dtype``; 4 bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        convolutional networks with very large batches.

    Source:
        You et al. 2017, algorithm 1; the norms of zero as in the authors' code.

    Differs from torch.optim in:
        torch has no such class.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.LARS([weight], lr=0.1, trust_coefficient=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9900, 0.9900, 0.9900])
    """

    rule = "lars"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        momentum: float | Tensor = 0.9,
        weight_decay: float = 0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        *,
        maximize: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))


class NovoGrad(OnePass):
    r"""NovoGrad: momentum over gradients of norm one, with a second moment for each parameter.

    .. code-block:: text

        v_t = beta2 v_(t-1) + (1 - beta2) |g_t|^2                    (v_1 = |g_1|^2)
        m_t = beta1 m_(t-1) + g_t / (sqrt(v_t) + eps) + weight_decay w
        w  -= lr m_t

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-2).
        betas: how much of the moments is kept at each step, each in [0, 1) (0.95, 0.98).
        eps: added to the root, >= 0 (1e-8).
        weight_decay: weight_decay w is added to the scaled gradient, >= 0 (0).
        maximize: climb instead of descend (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        state_dtype: dtype of the first moment: float32, float64, bfloat16, float16 or int8; None is
            the parameter's own, and float32 for float16 parameters. int8 stores codes of 8 bits
            and, under ``<state>_exponent``, one exponent for 64 of a row; parameters of one
            dimension keep float32. CPU only so far (None).
        max_grad_norm: the largest norm of all gradients together, > 0. Where theirs is larger, the
            step takes them scaled down to it, as after clip_grad_norm_; ``.grad`` stays as it is
            and opt.grad_norm tells their norm. CPU only so far (None).
        skip_nonfinite: take no step at all where that norm is infinite or NaN (False).
        stochastic_rounding: round bfloat16 and float16 parameters up or down with the probability
            that keeps the mean exact, so that small updates are not lost; CPU only so far (False).

    State:
        ``step``, ``exp_avg_sq``: 0-dim float32, 4 bytes each. ``exp_avg``: the parameter's shape,
        ``state_dtype``; 4 bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        speech and image models, with half of Adam's memory.

    Source:
        Ginsburg et al. 2019, algorithm 1.

    Differs from torch.optim in:
        torch has no such class.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.NovoGrad([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9423, 0.9423, 0.9423])
    """

    rule = "novograd"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))


class LAMB(OnePass):
    r"""LAMB: Adam whose steps are as long as their parameter, times lr.

    .. code-block:: text

        m_t, v_t, mhat, vhat as Adam
        u_t = mhat / (sqrt(vhat) + eps) + weight_decay p
        p  -= lr |p| / |u_t| u_t                                   (lr u_t where a norm is 0)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-3).
        betas: how much of the means is kept at each step, each in [0, 1) (0.9, 0.999).
        eps: added to the root, >= 0 (1e-6).
        weight_decay: weight_decay p is added to the step before it is scaled, >= 0 (1e-2).
        maximize: climb instead of descend (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        state_dtype: dtype of the moments: float32, float64, bfloat16, float16 or int8; None is the
            parameter's own, and float32 for float16 parameters. int8 stores codes of 8 bits and,
            under ``<state>_exponent``, one exponent for 64 of a row; parameters of one dimension
            keep float32. CPU only so far (None).
        max_grad_norm: the largest norm of all gradients together, > 0. Where theirs is larger, the
            step takes them scaled down to it, as after clip_grad_norm_; ``.grad`` stays as it is
            and opt.grad_norm tells their norm. CPU only so far (None).
        skip_nonfinite: take no step at all where that norm is infinite or NaN (False).
        stochastic_rounding: round bfloat16 and float16 parameters up or down with the probability
            that keeps the mean exact, so that small updates are not lost; CPU only so far (False).
        state_rounding: "stochastic" rounds ``exp_avg_sq`` of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``exp_avg``, ``exp_avg_sq``: the parameter's shape,
        ``state_dtype``; 8 bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        transformers with very large batches.

    Source:
        You et al. 2020, algorithm 2, with phi(z) = z.

    Differs from torch.optim in:
        torch has no such class; gradients are not clipped here, as some implementations do.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.LAMB([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """

    rule = "lamb"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
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
