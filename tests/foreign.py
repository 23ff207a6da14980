"""Small checkpoints as other libraries write them, and the states that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.support import randn

SHAPE = (5, 64)  # more than one block of 256, and of 32; the last is short


@dataclass(frozen=True)
class Sample:
    source: str
    algorithm: str
    own: dict[str, Any]  # a parameter's state, as the library saves it
    wanted: dict[str, Tensor]  # as torch would
    group: dict[str, Any]  # what its group holds besides lr
    held: dict[str, Any]  # what ours is to hold

    def __str__(self) -> str:
        return f"{self.source}-{self.algorithm}"

    @property
    def saved(self) -> dict[str, Any]:
        group = {"lr": 0.02, "params": [4]}
        return {"state": {4: dict(self.own)}, "param_groups": [group | self.group]}


class Coded(Tensor):
    """A state of torchao's kind, without torchao: it decodes itself."""

    codes: Tensor
    scale: Tensor

    def dequantize(self) -> Tensor:
        return self.codes.float().view(-1, 64).mul(self.scale.view(-1, 1)).view(self.shape)


def coded() -> Coded:
    codes = torch.arange(320, dtype=torch.int32).view(SHAPE).to(torch.uint8)
    made = torch.zeros(SHAPE).as_subclass(Coded)
    made.codes, made.scale = codes, torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
    return made


def floats(seed: int) -> Tensor:
    return randn(SHAPE, torch.float32, seed)


def squares(seed: int) -> Tensor:
    return floats(seed).square()


def bytes_of(seed: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return (floats(seed) * 60).to(torch.int32).to(dtype)


def by_loop(codes: Tensor, table: Tensor, scales: Tensor, size: int) -> Tensor:
    """Returns a number of a table for each code, times the scale of its block, one by one."""
    flat = codes.reshape(-1).tolist()
    numbers = [table[code] * scales[k // size] for k, code in enumerate(flat)]
    return torch.stack(numbers).view(codes.shape)


TABLE = torch.linspace(-1.0, 1.0, 256)
STEP = torch.tensor(3.0)
BETAS = {"betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.1}
MOMENTS = {"exp_avg": floats(1), "exp_avg_sq": squares(2)}
BNB_CODES = {
    "state1": bytes_of(1),
    "qmap1": TABLE,
    "absmax1": torch.tensor([2.0, 0.3]),
    "state2": bytes_of(2),
    "qmap2": TABLE.abs(),
    "absmax2": torch.tensor([float("nan"), 0.7]),
}
BNB_WANTED = {
    "step": STEP,
    "exp_avg": by_loop(BNB_CODES["state1"], TABLE, BNB_CODES["absmax1"], 256),
    "exp_avg_sq": by_loop(BNB_CODES["state2"], TABLE.abs(), BNB_CODES["absmax2"], 256),
}
_SIGNED = torch.tensor([k / 127 for k in range(-127, 128)])
_ROOTS = torch.tensor([k / 255 for k in range(256)])
FLASH_CODES = {
    "exp_avg::quantized": bytes_of(1, torch.int8).clamp(min=-127),
    "exp_avg::scales": torch.linspace(0.1, 9.0, 10).half(),
    "exp_avg_sq::quantized": bytes_of(2),
    "exp_avg_sq::scales": torch.linspace(0.3, 7.0, 10).half(),
}
FLASH_WANTED = {
    "step": STEP,
    "exp_avg": by_loop(
        FLASH_CODES["exp_avg::quantized"].int() + 127,
        _SIGNED / (2.0 - _SIGNED.abs()),
        FLASH_CODES["exp_avg::scales"].float(),
        32,
    ),
    "exp_avg_sq": by_loop(
        FLASH_CODES["exp_avg_sq::quantized"], _ROOTS, FLASH_CODES["exp_avg_sq::scales"].float(), 32
    ).square(),
}
# For a parameter of bfloat16 the bits of the scales go by that name.
FLASH_BFLOAT16 = {
    key: value.view(torch.bfloat16) if value.dtype == torch.float16 else value
    for key, value in FLASH_CODES.items()
} | {"error_bits": torch.zeros(SHAPE, dtype=torch.bfloat16)}
OPTIMI_GROUP = {
    **{"beta1": 0.8, "beta2": 0.95, "eps": 0.01, "weight_decay": 0.1, "decouple_wd": True},
    **{"decouple_lr": False, "max_lr": None, "foreach": None, "step": torch.tensor(3)},
}
OPTIMI_WANTED = {
    "step": STEP,
    "exp_avg": MOMENTS["exp_avg"] * (1 - 0.8**3),
    "exp_avg_sq": MOMENTS["exp_avg_sq"] * (1 - 0.95**3),
}
ADAN = BETAS | {"betas": (0.8, 0.9, 0.95)}
APEX_GROUP = BETAS | {"bias_correction": True, "step": 3}

SAMPLES = (
    Sample("apex", "AdamW", MOMENTS, {"step": STEP, **MOMENTS}, APEX_GROUP, BETAS),
    Sample("apex", "LAMB", MOMENTS, {"step": STEP, **MOMENTS}, APEX_GROUP, BETAS),
    Sample(
        "apex",
        "SGD",
        {"momentum_buffer": floats(1)},
        {"momentum_buffer": floats(1)},
        {"momentum": 0.8, "dampening": 0.0, "weight_decay": 0.1, "nesterov": True},
        {"momentum": 0.8, "dampening": 0.0, "weight_decay": 0.1, "nesterov": True},
    ),
    Sample(
        "bitsandbytes",
        "AdamW",
        {"step": 3, "__bnb_optimizer_quant_state__": BNB_CODES},
        BNB_WANTED,
        BETAS | {"alpha": 0.0, "t_alpha": None, "t_beta3": None},
        BETAS,
    ),
    Sample(  # as older versions lay it out
        "bitsandbytes",
        "Adam",
        {"step": 3, **BNB_CODES},
        BNB_WANTED,
        BETAS,
        BETAS | {"decoupled_weight_decay": True},
    ),
    Sample(
        "bitsandbytes",
        "RMSprop",
        {"step": 3, "state1": squares(1), "unorm_vec": torch.zeros(1)},
        {"step": STEP, "square_avg": squares(1)},
        {"betas": (0.9, 0), "eps": 0.01, "weight_decay": 0.1},
        {"alpha": 0.9, "momentum": 0, "eps": 0.01, "weight_decay": 0.1},
    ),
    Sample(
        "bitsandbytes",
        "SGD",
        {"step": 3, "state1": floats(1)},
        {"momentum_buffer": floats(1)},
        {"betas": (0.8, 0), "eps": 0.0, "weight_decay": 0.1},
        {"momentum": 0.8, "weight_decay": 0.1},
    ),
    Sample(
        "deepspeed",
        "Adam",
        {"step": 3, **MOMENTS},
        {"step": STEP, **MOMENTS},
        BETAS | {"bias_correction": True, "amsgrad": False},
        BETAS | {"amsgrad": False, "decoupled_weight_decay": False},
    ),
    Sample(
        "deepspeed",
        "Lion",
        {"step": 3, **MOMENTS},
        {"step": STEP, "exp_avg": floats(1)},
        {"betas": (0.8, 0.95), "weight_decay": 0.1},
        {"betas": (0.8, 0.95), "weight_decay": 0.1},
    ),
    Sample(
        "deepspeed",
        "Adagrad",
        {"step": 3, "exp_avg_sq": squares(1)},
        {"step": STEP, "sum": squares(1)},
        {"eps": 0.01, "weight_decay": 0.1, "amsgrad": False},
        {"eps": 0.01, "weight_decay": 0.1, "lr_decay": 0},
    ),
    Sample(
        "flashoptim",
        "AdamW",
        {"step": torch.tensor(3), **FLASH_CODES},
        FLASH_WANTED,
        BETAS | {"initial_lr": 0.04, "master_bytewidth": 3, "quantize": True},
        BETAS | {"initial_lr": 0.04},
    ),
    Sample(
        "flashoptim",
        "Adam",
        {"step": torch.tensor(3), **FLASH_BFLOAT16},
        FLASH_WANTED,
        BETAS,
        BETAS | {"decoupled_weight_decay": False},
    ),
    Sample(
        "flashoptim",
        "SGD",
        {"momentum_buffer": floats(1).bfloat16()},
        {"momentum_buffer": floats(1).bfloat16().float()},
        {"momentum": 0.8, "dampening": 0.1, "weight_decay": 0.1},
        {"momentum": 0.8, "dampening": 0.1, "weight_decay": 0.1},
    ),
    Sample(
        "optimi",
        "AdamW",
        {**MOMENTS, "kahan_comp": None},
        OPTIMI_WANTED,
        OPTIMI_GROUP,
        BETAS,
    ),
    Sample(
        "optimi",
        "RAdam",
        MOMENTS,
        OPTIMI_WANTED,
        OPTIMI_GROUP | {"decouple_wd": False, "decouple_lr": True, "max_lr": 0.1},
        BETAS | {"decoupled_weight_decay": True, "decouple_lr": True, "reference_lr": 0.1},
    ),
    Sample(
        "optimi",
        "Momentum",
        {"exp_avg": floats(1)},
        {"step": torch.tensor(0.0), "exp_avg": floats(1)},
        {"momentum": 0.8, "weight_decay": 0.1, "dampening": True, "decouple_wd": True},
        {"momentum": 0.8, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    Sample(
        "pytorch_optimizer",
        "NovoGrad",
        {"moments": floats(1), "grads_ema": torch.tensor(2.0)},
        {"step": STEP, "exp_avg": floats(1), "exp_avg_sq": torch.tensor(2.0)},
        BETAS | {"weight_decouple": False, "step": 3},
        BETAS,
    ),
    Sample(
        "pytorch_optimizer",
        "Adan",
        {**MOMENTS, "exp_avg_diff": floats(3), "previous_grad": floats(4)},
        {"step": STEP, **MOMENTS, "exp_avg_diff": floats(3), "prev": -floats(4)},
        {**ADAN, "step": 3, "max_grad_norm": 0.0},
        ADAN,
    ),
    Sample(
        "torchao",
        "AdamW",
        {"step": STEP, "exp_avg": coded(), "exp_avg_sq": squares(2), "max_exp_avg_sq": coded()},
        {
            "step": STEP,
            "exp_avg": coded().dequantize(),
            "exp_avg_sq": squares(2),
            "max_exp_avg_sq": coded().dequantize(),
        },
        BETAS | {"lr": torch.tensor(0.5), "amsgrad": True},
        BETAS | {"lr": 0.5, "amsgrad": True},
    ),
)
