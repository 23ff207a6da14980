"""What this copy of onepass was built for."""

from __future__ import annotations

from typing import Any

from ._native import C


def build_info() -> dict[str, Any]:
    """Returns what onepass was built for and by what.

    Returns:
        ``version``; ``torch``, the version it was built for; ``compiler``; ``instruction_sets`` of
        the CPU that have loops of their own, and ``instruction_set``, the one in use;
        ``cuda_archs``, the compute capabilities that have kernels (empty: none) and ``+PTX``
        where later ones can be compiled for; ``cuda_compiler``.

    Example:
        >>> import onepass
        >>> onepass.build_info()["version"] == onepass.__version__
        True
    """
    built = C.build_info()
    archs = built["cuda_archs"].replace("+PTX", ";+PTX").split(";")
    return {**built, "cuda_archs": [arch for arch in archs if arch]}
