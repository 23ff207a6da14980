"""Adagrad, over the class of that name in ``torch.optim``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..optimizer import OnePass
from ..options import options_of


class Adagrad(OnePass, torch.optim.Adagrad):
    r"""Adagrad: steps divided by the root of the sum of all squared gradients.

    .. code-block:: text

        g_t = grad + weight_decay p
        s_t = s_(t-1) + g_t^2
        p  -= lr_t g_t / (sqrt(s_t + eps_root) + eps)  with lr_t = lr / (1 + (t - 1) lr_decay)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.
        lr: the rate, a float or a 1-element tensor, >= 0 (1e-2).
        lr_decay: how fast the rate falls besides, >= 0 (0).
        weight_decay: weight_decay p is added to the gradient, >= 0 (0).
        initial_accumulator_value: the sum before the first step, >= 0 (0).
        eps: added to the root, >= 0 (1e-10).
        foreach: accepted for torch's sake; the result is the same (None).
        maximize: climb instead of descend (False).
        capturable: keep counts on the device, so that a CUDA graph can capture steps (False).
        differentiable: let autograd see the step, by torch's own code (False).
        fused: let ``torch.amp.GradScaler`` leave unscaling and skipping to the step (None).
        eps_root: added inside the root, >= 0 (0).
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
        state_rounding: "stochastic" rounds ``sum`` of 16 bits in the same way, None to
            nearest (None).

    State:
        ``step``: 0-dim float32, 4 bytes. ``sum``: the parameter's shape, ``state_dtype``; 4 bytes
        per float32 element. Made by the constructor, as in torch.

    Raises:
        ValueError: an argument is out of its range, at construction and at every step.
        RuntimeError: a tensor does not fit. Nothing has changed then.

    Use it for:
        sparse features: rare ones keep a large rate. The rate never recovers.

    Source:
        Duchi et al. 2011, figure 1, with the diagonal.

    Differs from torch.optim.Adagrad in:
        the keyword-only eps_root, state_dtype, max_grad_norm, skip_nonfinite, stochastic_rounding
        and state_rounding; float32 states for float16 parameters; infinite hyper-parameters are
        refused; float32 arithmetic for bfloat16 and float16, rounded once at the end of the step; a
        group's own initial_accumulator_value counts, which torch overlooks.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(3, requires_grad=True)
        >>> opt = onepass.Adagrad([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """

    rule = "adagrad"
    _torch_lacks_capturable = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        eps_root: float = 0.0,
        capturable: bool = False,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
        state_rounding: str | None = None,
    ) -> None:
        """Makes the optimizer; the arguments are described at the class."""
        super().__init__(params, options_of(locals()))
        for group in self.param_groups:
            for param in group["params"]:  # torch's constructor makes states of its own dtype
                self.state[param] = self._new_state(param, group)

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> Any:
        # Before 2.12 torch's own code makes none for parameters that were added later.
        for param in group["params"]:
            if group.get("differentiable") and param.grad is not None and not self.state[param]:
                self.state[param].update(self._new_state(param, group))
        return super()._init_group(group, *lists)
