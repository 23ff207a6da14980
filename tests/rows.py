"""Gradients that have values for some rows of a parameter."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sparse(dense: Tensor, sparse_dim: int, rows: Tensor | None = None) -> Tensor:
    """Returns the gradient at these rows of the first `sparse_dim` dimensions; None: at all."""
    shape = dense.shape[:sparse_dim]
    if rows is None:
        rows = torch.arange(math.prod(shape))
    indices = torch.stack(torch.unravel_index(rows, shape))
    values = dense.reshape(-1, *dense.shape[sparse_dim:])[rows]
    return torch.sparse_coo_tensor(indices, values, dense.shape, check_invariants=True)
