"""SGD, over the class of that name in ``torch.optim``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of


class SGD(OnePass, torch.optim.SGD):
    r"""SGD: gradient descent, with momentum and Nesterov's if asked for.

    .. code-block:: text

        g_t = grad + weight_decay p
        b_t = momentum b_(t-1) + (1 - dampening) g_t  (b_1 = g_1)
        p  -= lr b_t                                  (nesterov: lr (g_t + momentum b_t))

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-3).
        momentum: how much of the buffer is kept at each step, >= 0 (0).
        dampening: how much of each gradient is kept from the buffer, after the first (0).
        weight_decay: weight_decay p is added to the gradient, >= 0 (0).
        nesterov: look ahead along the buffer; asks for a momentum and no dampening (False).
        maximize: climb instead of descend (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        foreach: accepted for torch's sake; the result is the same (None).
        differentiable: let autograd see the step, by torch's own code (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        state_dtype: dtype of the states: float32, float64, bfloat16 or float16; None is the
            parameter's own, and float32 for float16 parameters (None).
        max_grad_norm: the largest norm of all gradients together, > 0. Where theirs is larger, the
            step takes them scaled down to it, as after clip_grad_norm_; ``.grad`` stays as it is
            and opt.grad_norm tells their norm. CPU only so far (None).
        skip_nonfinite: take no step at all where that norm is infinite or NaN (False).

    State:
        ``momentum_buffer``, with momentum: the parameter's shape, ``state_dtype``; 4 bytes per
        float32 element. No step count.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a tensor does not fit. Nothing has changed then.

    Use it for:
        convolutional networks with a tuned schedule, and wherever state must take no memory.

    Source:
        Robbins and Monro 1951; momentum: Polyak 1964; Nesterov's: Sutskever et al. 2013, equations
        3 and 4.

    Differs from torch.optim.SGD in:
        the keyword-only state_dtype, max_grad_norm and skip_nonfinite; float32 states for float16
        parameters; infinite hyper-parameters are refused; float32 arithmetic for bfloat16 and
        float16, rounded once at the end of the step; with a sparse gradient, rows without values
        stay where they are, though torch's momentum moves them, and weight_decay is taken.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.SGD([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.8000, 0.8000, 0.8000])
    """

    rule = "sgd"
    _torch_lacks_capturable = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))
