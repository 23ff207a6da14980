"""Adam's relatives that ``torch.optim`` does not have."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of

__all__ = ["AdaBelief", "LaProp"]


class LaProp(OnePass):
    r"""LaProp: Adam that scales each gradient before it goes into the mean.

    .. code-block:: text

        p  *= 1 - lr weight_decay
        n_t = beta2 n_(t-1) + (1 - beta2) g_t^2
        m_t = beta1 m_(t-1) + (1 - beta1) g_t / (sqrt(nhat + eps_root) + eps)
        p  -= lr m_t / (1 - beta1^t)
        with nhat = n_t / (1 - beta2^t)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (4e-4).
        betas: how much of the means is kept at each step, each in [0, 1) (0.9, 0.999).
        eps: added to the root, >= 0 (1e-15).
        weight_decay: the share of the parameter, times lr, that each step removes, >= 0 (0).
        maximize: climb instead of descend (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        eps_root: added to nhat inside the root, >= 0 (0).
        decouple_lr: decay by weight_decay lr / (the largest lr so far), so that it
            follows the schedule of lr but does not depend on its size (False).
        state_dtype: dtype of the means: float32, float64, bfloat16, float16 or int8; None is the
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
        Adam's place where betas far apart make Adam unstable: its steps stay bounded for any pair.

    Source:
        Ziyin et al. 2020, algorithm 1.

    Differs from torch.optim in:
        torch has no such class; the authors' code averages lr times the scaled gradient, which is
        the same as long as lr does not change.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.LaProp([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """

    rule = "laprop"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 4e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        eps_root: float = 0.0,
        decouple_lr: bool = False,
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


class AdaBelief(OnePass):
    r"""AdaBelief: Adam that divides by how far gradients stray from their mean.

    .. code-block:: text

        p  *= 1 - lr weight_decay
        m_t = beta1 m_(t-1) + (1 - beta1) g_t
        s_t = beta2 s_(t-1) + (1 - beta2) (g_t - m_t)^2 + eps
        p  -= lr mhat / (sqrt(shat) + eps)
        with mhat = m_t / (1 - beta1^t) and shat = s_t / (1 - beta2^t)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-3).
        betas: how much of the means is kept at each step, each in [0, 1) (0.9, 0.999).
        eps: added to s at every step and to its root, >= 0 (1e-16).
        weight_decay: the share of the parameter, times lr, that each step removes, >= 0 (0).
        maximize: climb instead of descend (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        decouple_lr: decay by weight_decay lr / (the largest lr so far), so that it
            follows the schedule of lr but does not depend on its size (False).
        state_dtype: dtype of the means: float32, float64, bfloat16, float16 or int8; None is the
            parameter's own, and float32 for float16 parameters. int8 stores codes of 8 bits and,
            under ``<state>_exponent``, one exponent for 64 of a row; parameters of one dimension
            keep float32. CPU only so far (None).
        max_grad_norm: the largest norm of all gradients together, > 0. Where theirs is larger, the
            step takes them scaled down to it, as after clip_grad_norm_; ``.grad`` stays as it is
            and opt.grad_norm tells their norm. CPU only so far (None).
        skip_nonfinite: take no step at all where that norm is infinite or NaN (False).
        stochastic_rounding: round bfloat16 and float16 parameters up or down with the probability
            that keeps the mean exact, so that small updates are not lost; CPU only so far (False).
        state_rounding: "stochastic" rounds ``exp_avg_var`` of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``exp_avg``, ``exp_avg_var``: the parameter's shape,
        ``state_dtype``; 8 bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        long steps where gradients agree and short ones where they do not; image models.

    Source:
        Zhuang et al. 2020, algorithm 2.

    Differs from torch.optim in:
        torch has no such class; of the authors' options, decay is always decoupled and steps are
        not rectified.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.AdaBelief([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.8889, 0.8889, 0.8889])
    """

    rule = "adabelief"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        decouple_lr: bool = False,
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
