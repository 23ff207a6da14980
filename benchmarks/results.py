"""Results as plain data (what the JSON file holds), and where the files go."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from benchmarks.contestants import PEERS
from benchmarks.timing import Settings, Summary, Times, speedups

FOLDER = Path(__file__).parent / "results"


def column(
    times: Times, baseline: str, bytes_moved: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Per contestant: seconds per step, ratios to the baseline, bytes per second, the rounds."""
    ratios = speedups(times, baseline)
    return {
        name: {
            "seconds": asdict(Summary.of(rounds)),
            "speedup": asdict(ratios[name]),
            "bytes_per_second": (
                bytes_moved[name] / Summary.of(rounds).median if name in bytes_moved else None
            ),
            "rounds": [float(f"{seconds:.4g}") for seconds in rounds],
        }
        for name, rounds in times.items()
    }


def document(
    benchmark: str, machine: dict[str, Any], settings: Settings, workloads: list[dict[str, Any]]
) -> dict[str, Any]:
    """The whole content of a result file."""
    return {
        "benchmark": benchmark,
        "machine": machine,
        "peers": peer_versions(),
        "settings": asdict(settings),
        "workloads": workloads,
    }


def peer_versions() -> dict[str, str]:
    """The version of every other project that is installed."""
    owners = packages_distributions()
    modules = {peer.name: peer.module.partition(".")[0] for peer in PEERS}
    return {name: version(owners[top][0]) for name, top in modules.items() if top in owners}


def file_stem(benchmark: str) -> str:
    """Name of the result files of a run that begins now, without suffix."""
    return f"{benchmark}-{datetime.now():%Y-%m-%d-%H%M%S}"


def save(result: dict[str, Any], path: Path) -> None:
    """Write a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
