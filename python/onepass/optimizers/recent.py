"""Algorithms since 2022 that ``torch.optim`` does not have."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of

__all__ = ["ADOPT", "Adan", "Lion"]


class Adan(OnePass):
    r"""Adan: Nesterov momentum for Adam, with the change of the gradient as a mean of its own.

    .. code-block:: text

        d_t = g_t - g_(t-1)  (0 in the first step)
        m_t = beta1 m_(t-1) + (1 - beta1) g_t
        v_t = beta2 v_(t-1) + (1 - beta2) d_t
        n_t = beta3 n_(t-1) + (1 - beta3) (g_t + beta2 d_t)^2
        p  -= lr (mhat + beta2 vhat) / (sqrt(nhat + eps_root) + eps)
        p  /= 1 + lr weight_decay
        with mhat = m_t / (1 - beta1^t), vhat = v_t / (1 - beta2^t), nhat = n_t / (1 - beta3^t)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0; up to ten times Adam's (1e-3).
        betas: how much of the means is kept at each step, each in [0, 1) (0.98, 0.92, 0.99).
        eps: added to the root, >= 0 (1e-8).
        weight_decay: the parameter is divided by 1 + lr weight_decay, >= 0 (0).
        maximize: climb instead of descend (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        eps_root: added to nhat inside the root, >= 0 (0).
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
        state_rounding: "stochastic" rounds ``exp_avg_sq`` of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``, ``prev``:
        the parameter's shape, ``state_dtype``; 16 bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        large batches and large rates, where memory for two more states is there.

    Source:
        Xie et al. 2022, algorithm 1, with the bias corrections of the authors' code.

    Differs from torch.optim in:
        torch has no such class; of the authors' options, gradients are not clipped here and decay
        is always the proximal one.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.Adan([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """

    rule = "adan"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        eps_root: float = 0.0,
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
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        decouple_lr: decay by weight_decay lr / (the largest lr so far), so that it
            follows the schedule of lr but does not depend on its size (False).
        cautious: let elements rest whose step would go against their gradient, and the others go
            further, so that the mean step stays; dense gradients only (False).
        state_dtype: dtype of the mean: float32, float64, bfloat16, float16 or int8; None is the
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
        half of Adam's memory; large batches, with a smaller rate and a larger decay.

    Source:
        Chen et al. 2023, algorithm 2; cautious: Liang et al. 2024, algorithm 1.

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
        cautious: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))


class ADOPT(OnePass):
    r"""ADOPT: Adam that converges with any beta2, since it divides by the v of the step before.

    .. code-block:: text

        p  *= 1 - lr weight_decay
        c_t = clip(g_t / max(sqrt(v_(t-1)), eps), -(t-1)^(1/4), (t-1)^(1/4))
        m_t = beta1 m_(t-1) + (1 - beta1) c_t
        p  -= lr m_t
        v_t = beta2 v_(t-1) + (1 - beta2) g_t^2

    In the first step v_1 = g_1^2, and the parameter stays where it is.

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-3).
        betas: how much of the means is kept at each step, each in [0, 1) (0.9, 0.9999).
        eps: the smallest divisor, >= 0 (1e-6).
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
        state_rounding: "stochastic" rounds ``exp_avg_sq`` of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``exp_avg``, ``exp_avg_sq``: the parameter's shape,
        ``state_dtype``; 8 bytes per float32 element.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a gradient is sparse, or a tensor does not fit. Nothing has changed then.

    Use it for:
        Adam's place where beta2 cannot be tuned, or where Adam diverges.

    Source:
        Taniguchi et al. 2024, algorithm 2, clipped as in the authors' code.

    Differs from torch.optim in:
        torch has no such class; of the authors' options, decay is always decoupled.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.ADOPT([weight], lr=0.1)
        >>> for _ in range(2):
        ...     opt.zero_grad()
        ...     (weight**2).sum().backward()
        ...     opt.step()
        >>> weight.detach()
        tensor([0.9900, 0.9900, 0.9900])
    """

    rule = "adopt"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.9999),
        eps: float = 1e-6,
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
