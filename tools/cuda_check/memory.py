"""The memory that a kernel is run in here."""

from __future__ import annotations

from dataclasses import dataclass, field


class Stop(Exception):
    """What the kernel does that it should not, or that is not known here."""


@dataclass
class Memory:
    """Bytes at addresses; whatever is read must be there, and what was written is noted.

    So are the formulas of all numbers that were computed, by their bits: on its way to memory a
    number may be cut into words, which know nothing of formulas.
    """

    bytes_at: dict[int, int] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)
    computed: dict[int, set[str]] = field(default_factory=dict)

    def put(self, address: int, data: bytes) -> None:
        """Makes bytes readable."""
        self.bytes_at.update(enumerate(data, address))

    def get(self, address: int, size: int) -> int:
        """Returns so many bytes as a number."""
        try:
            data = bytes(self.bytes_at[k] for k in range(address, address + size))
        except KeyError:
            raise Stop(f"reads {size} bytes at {address:#x}, where nothing is") from None
        return int.from_bytes(data, "little")
