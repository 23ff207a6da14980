"""Takes steps whose instructions valgrind counts; argument: the library of callgrind_marks.c."""

import ctypes
import sys

import torch

import onepass

STEPS = 5


def count(marks: ctypes.CDLL, tensors: int, groups: int, rate: str) -> None:
    """Counts the steps over tensors of one element, whose work is nearly all overhead."""
    params = [torch.ones(1, requires_grad=True) for _ in range(tensors)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = onepass.AdamW([{"params": params[k::groups]} for k in range(groups)], lr=1e-3)
    for number in range(3 + STEPS):
        if rate == "changes":
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 / (1 + number)
        if number >= 3:
            marks.toggle()
        optimizer.step()
        if number >= 3:
            marks.toggle()
    marks.dump(f"{tensors} {groups} {rate}".encode())


def main() -> None:
    marks = ctypes.CDLL(sys.argv[1])
    torch.set_num_threads(1)
    marks.instrument()
    for tensors, groups, rate in [
        (100, 1, "stays"),
        (600, 1, "stays"),
        (100, 100, "stays"),
        (600, 600, "stays"),
        (100, 100, "changes"),
        (600, 600, "changes"),
    ]:
        count(marks, tensors, groups, rate)


if __name__ == "__main__":
    main()
