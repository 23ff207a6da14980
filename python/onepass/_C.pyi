"""The native module; csrc/bindings/module.cpp says the same in C++."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

class Step:
    """The native half of one optimizer: reads its groups and its state, and takes its steps."""

    def __init__(self, algorithm: str) -> None: ...
    def step(
        self,
        groups: list[dict[str, Any]],
        state: dict[Any, Any],
        new_state: Callable[[Tensor, dict[str, Any]], dict[str, Tensor]],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
    ) -> bool: ...
    def step_one(
        self,
        groups: list[dict[str, Any]],
        state: dict[Any, Any],
        param: Tensor,
        new_state: Callable[[Tensor, dict[str, Any]], dict[str, Tensor]],
    ) -> bool: ...
    def place_of(
        self, groups: list[dict[str, Any]], state: dict[Any, Any], param: Tensor
    ) -> tuple[int, int]: ...
    @property
    def steps_taken(self) -> int: ...
    @staticmethod
    def skips(found_inf: Tensor | None) -> bool: ...
    def rehearse(
        self,
        groups: list[dict[str, Any]],
        state: dict[Any, Any],
        new_state: Callable[[Tensor, dict[str, Any]], dict[str, Tensor]],
    ) -> bool: ...
    def check(
        self, groups: list[dict[str, Any]], state: dict[Any, Any], first_group: int = 0
    ) -> None: ...
    def check_arguments(self, arguments: dict[str, Any], ranges: bool) -> None: ...

def catch_up(param: Tensor, decay_log: Tensor, row_decay_log: Tensor) -> None: ...
def dispatch_mode_is_active() -> bool: ...
def is_profiled() -> bool: ...
def build_info() -> dict[str, Any]: ...
def rules() -> list[dict[str, Any]]: ...
def set_instruction_set(name: str) -> None: ...
