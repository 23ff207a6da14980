"""Memory whose neighbours tell: pages that end the process when touched, and canaries."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

_LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
PROT_NONE, MAP_NORESERVE = 0, 0x4000  # of Linux; the mmap module does not name them
CANARY = 0xA5


class GuardedPage:
    """One page of memory between two that no one may read or write."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 3 * PAGE)
        start = ctypes.addressof(ctypes.c_ubyte.from_buffer(self._map))
        for page in (start, start + 2 * PAGE):
            refused = _LIBC.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), PROT_NONE)
            assert refused == 0, ctypes.get_errno()
        memory = (ctypes.c_ubyte * PAGE).from_address(start + PAGE)
        self._bytes = torch.frombuffer(memory, dtype=torch.uint8)
        self.address = start

    @staticmethod
    def reserve(size: int) -> Tensor:
        """Returns float32 numbers in memory of which only what is written will exist."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        return torch.frombuffer(
            mmap.mmap(-1, size // PAGE * PAGE, flags=flags), dtype=torch.float32
        )

    def at_end(self, count: int, dtype: torch.dtype) -> Tensor:
        """Returns `count` elements that end where the page ends."""
        return self._bytes[PAGE - count * dtype.itemsize :].view(dtype)

    def at_start(self, count: int, dtype: torch.dtype) -> Tensor:
        """Returns `count` elements that start where the page starts."""
        return self._bytes[: count * dtype.itemsize].view(dtype)


class Canaries:
    """A buffer of canaries with a tensor in its middle."""

    def __init__(self, values: Tensor, offset: int) -> None:
        count, size = values.numel(), values.dtype.itemsize
        self.begin = (16 + offset) * size
        self.end = self.begin + count * size
        self.buffer = torch.full((self.end + 16 * size,), CANARY, dtype=torch.uint8)
        self.tensor = self.buffer.view(values.dtype)[16 + offset : 16 + offset + count]
        self.tensor.copy_(values)

    def alive(self) -> bool:
        outside = (self.buffer[: self.begin], self.buffer[self.end :])
        return all(bool((part == CANARY).all()) for part in outside)
