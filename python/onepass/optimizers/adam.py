"""Adam and AdamW, over the classes of the same name in ``torch.optim``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of


class Adam(OnePass, torch.optim.Adam):
    r"""Adam: steps along the mean of the gradients, scaled by the root of their mean square.

    .. code-block:: text

        g_t = grad + weight_decay p              (decoupled: p *= 1 - lr weight_decay instead)
        m_t = beta1 m_(t-1) + (1 - beta1) g_t
        v_t = beta2 v_(t-1) + (1 - beta2) g_t^2  (amsgrad: then the largest v so far)
        p  -= lr mhat / (sqrt(vhat + eps_root) + eps)
        with mhat = m_t / (1 - beta1^t) and vhat = v_t / (1 - beta2^t)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-3).
        betas: how much of the means is kept at each step, each in [0, 1) (0.9, 0.999).
        eps: added to the root, >= 0; bounds the step where gradients vanish (1e-8).
        weight_decay: >= 0 (0).
        amsgrad: divide by the largest second moment so far (False).
        foreach: accepted for torch's sake; the result is the same (None).
        maximize: climb instead of descend (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        differentiable: let autograd see the step, by torch's own code (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        decoupled_weight_decay: decay as AdamW does (False).
        eps_root: added to vhat inside the root, >= 0 (0).
        decouple_lr: decoupled decay by weight_decay lr / (the largest lr so far), so that it
            follows the schedule of lr but does not depend on its size (False).
        cautious: let elements rest whose step would go against their gradient, and the others go
            further, so that the mean step stays; dense gradients only (False).
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
        state_rounding: "stochastic" rounds second moments of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``exp_avg``, ``exp_avg_sq`` and with amsgrad
        ``max_exp_avg_sq``: the parameter's shape, ``state_dtype``; 8 bytes per float32 element.
        After a sparse gradient with decoupled decay also ``decay_log`` and ``row_decay_log``: 0-dim
        and a number a row, float64.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a tensor does not fit. Nothing has changed then.

    Use it for:
        the default where weight decay does not matter.

    Source:
        Kingma and Ba 2015, algorithm 1; AMSGrad: Reddi et al. 2018, algorithm 2; cautious: Liang et
        al. 2024, algorithm 1.

    Differs from torch.optim.Adam in:
        the keyword-only eps_root, decouple_lr, cautious, state_dtype, max_grad_norm,
        skip_nonfinite, stochastic_rounding and state_rounding; float32 moments for float16
        parameters; infinite hyper-parameters are refused; float32 arithmetic for bfloat16 and
        float16, rounded once at the end of the step; sparse gradients are taken: rows without
        values stay where they are, and decoupled decay reaches them later (catch_up).

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.Adam([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """

    rule = "adam"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        eps_root: float = 0.0,
        decouple_lr: bool = False,
        cautious: bool = False,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
        state_rounding: str | None = None,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))


class AdamW(OnePass, torch.optim.AdamW):
    r"""AdamW: Adam with the weight decay taken out of the gradient.

    .. code-block:: text

        p  *= 1 - lr weight_decay
        m_t = beta1 m_(t-1) + (1 - beta1) g_t
        v_t = beta2 v_(t-1) + (1 - beta2) g_t^2  (amsgrad: then the largest v so far)
        p  -= lr mhat / (sqrt(vhat + eps_root) + eps)
        with mhat = m_t / (1 - beta1^t) and vhat = v_t / (1 - beta2^t)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-3).
        betas: how much of the means is kept at each step, each in [0, 1) (0.9, 0.999).
        eps: added to the root, >= 0; bounds the step where gradients vanish (1e-8).
        weight_decay: the share of the parameter, times lr, that each step removes, >= 0 (1e-2).
        amsgrad: divide by the largest second moment so far (False).
        maximize: climb instead of descend (False).
        foreach: accepted for torch's sake; the result is the same (None).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        differentiable: let autograd see the step, by torch's own code (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        eps_root: added to vhat inside the root, >= 0 (0).
        decouple_lr: decay by weight_decay lr / (the largest lr so far), so that it
            follows the schedule of lr but does not depend on its size (False).
        cautious: let elements rest whose step would go against their gradient, and the others go
            further, so that the mean step stays; dense gradients only (False).
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
        state_rounding: "stochastic" rounds second moments of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``exp_avg``, ``exp_avg_sq`` and with amsgrad
        ``max_exp_avg_sq``: the parameter's shape, ``state_dtype``; 8 bytes per float32 element.
        After a sparse gradient with decoupled decay also ``decay_log`` and ``row_decay_log``: 0-dim
        and a number a row, float64.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a tensor does not fit. Nothing has changed then.

    Use it for:
        the default for transformers and most else, with weight decay.

    Source:
        Loshchilov and Hutter 2019, algorithm 2; AMSGrad: Reddi et al. 2018, algorithm 2; cautious:
        Liang et al. 2024, algorithm 1.

    Differs from torch.optim.AdamW in:
        the keyword-only eps_root, decouple_lr, cautious, state_dtype, max_grad_norm,
        skip_nonfinite, stochastic_rounding and state_rounding; float32 moments for float16
        parameters; infinite hyper-parameters are refused; float32 arithmetic for bfloat16 and
        float16, rounded once at the end of the step; sparse gradients are taken: rows without
        values stay where they are, and decay reaches them later (catch_up).

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.AdamW([weight], lr=0.1, weight_decay=0.5)
        >>> weight.grad = torch.zeros(3)
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9500, 0.9500, 0.9500])
    """

    rule = "adamw"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        eps_root: float = 0.0,
        decouple_lr: bool = False,
        cautious: bool = False,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
        state_rounding: str | None = None,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))
