"""What run_on_gpu.sh needs: what is missing on a machine, and the report on a session there.

Only the standard library: on such a machine little may be installed.
"""

import argparse
import json
import re
import runpy
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

# What the steps of a session need, the oldest version that will do, and what for.
NEEDED = {
    "setuptools": ("77.0.3", "build"),
    "ninja": ("1.11", "a build that uses all cores"),
    "numpy": ("1.26", "tests and benchmark"),
    "pytest": ("8.2", "tests"),
    "hypothesis": ("6.100", "some tests"),
    "typer": ("0.12", "benchmark"),
    "rich": ("13.7", "benchmark"),
    "tqdm": ("4.66", "benchmark"),
    "matplotlib": ("3.8", "benchmark"),
}
# Torch is never installed: the machine's is the one that was built for its GPU.
VERSIONS = runpy.run_path(str(Path(__file__).parents[1] / "python/onepass/_versions.py"))
MOST_FAILURES = 30  # tests named in the report
RESULTS = {0: "done", 124: "out of time", 127: "not found", 137: "killed"}
STEPS, TESTS, REPORT = "steps.tsv", "tests.xml", "report.md"


def missing() -> dict[str, str]:
    """Packages that are not there or too old, with what they are for."""
    return {
        f"{name}>={least}": purpose
        for name, (least, purpose) in NEEDED.items()
        if numbers(installed(name)) < numbers(least)
    }


def unsupported_torch() -> dict[str, str]:
    """A torch that onepass does not work with, and what that means."""
    if VERSIONS["is_supported"](version := installed("torch")):
        return {}
    here = f"here is {version or 'none'}, with which nothing is promised"
    return {VERSIONS["REQUIREMENT"]: here}


def installed(name: str) -> str:
    """The version of a package; nothing where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def numbers(version: str) -> list[int]:
    """A version as numbers that can be compared, as far as it has them."""
    return [int(part) for part in re.findall(r"\d+", version)]


# ---- the report


def report(folder: Path) -> str:
    """Everything that a session brought home, as Markdown."""
    found = sorted(folder.glob("gpu-*.json"))
    result = json.loads(found[-1].read_text()) if found else None
    device = result["device"]["name"] if result else "a machine that gave no figures"
    parts = [
        [f"# onepass on {device}", "", f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"],
        versions(result) if result else [],
        ["## Steps", "", *steps(folder / STEPS)],
        ["## Tests", "", *tests(folder / TESTS)],
        ["## Sanitizers", "", *sanitizers(folder)],
        *(figures(result) if result else [["## Figures", "", "None: see benchmark.log."]]),
        ["## Missing packages", "", *(list_of(missing() | unsupported_torch()) or ["None."])],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def versions(result: dict[str, Any]) -> list[str]:
    """The device, and what ran on it."""
    info, device = result["machine"], result["device"]
    build = info["onepass_build"] or {}
    rows = {
        **{name.replace("_", " "): value for name, value in device.items()},
        "torch": info["torch"],
        "onepass": info["onepass"] or "not built",
        "compiled for": build.get("cuda_archs") or "no CUDA architecture",
        "compiler": build.get("compiler"),
        "commit": info["commit"],
        "copy": f"{result['copy']['bytes_per_second'] / 1e9:.0f} GB/s, read and written",
    }
    return table(("what", "value"), rows.items())


def steps(path: Path) -> list[str]:
    """What the script did, how long it took and how it ended."""
    if not path.exists():
        return ["None."]
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return table(
        ("step", "ended", "seconds"),
        [(name, RESULTS.get(int(code), f"exit {code}"), seconds) for name, code, seconds in rows],
    )


def tests(path: Path) -> list[str]:
    """How many tests passed, and which did not."""
    try:
        suites = list(ElementTree.parse(path).iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return ["No results: see tests.log."]
    total = {
        kind: sum(int(suite.get(kind, 0)) for suite in suites)
        for kind in ("tests", "failures", "errors", "skipped")
    }
    passed = total["tests"] - total["failures"] - total["errors"] - total["skipped"]
    line = ", ".join(
        f"{count} {kind}"
        for kind, count in {
            "passed": passed,
            "failed": total["failures"],
            "errors": total["errors"],
            "skipped": total["skipped"],
        }.items()
    )
    names = list(failed_tests(suites))
    more = [f"- and {len(names) - MOST_FAILURES} more"] if len(names) > MOST_FAILURES else []
    return [line + ".", *(["", *names[:MOST_FAILURES], *more] if names else [])]


def failed_tests(suites: Iterable[ElementTree.Element]) -> Iterator[str]:
    """Each test that failed, with the first line of the reason."""
    for suite in suites:
        for case in suite.iter("testcase"):
            for kind in ("failure", "error"):
                if (found := case.find(kind)) is not None:
                    why = (found.get("message") or "").splitlines() or [""]
                    name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
                    yield f"- `{name}`: {why[0][:200]}"


def sanitizers(folder: Path) -> list[str]:
    """The summary of each log of compute-sanitizer."""
    lines = []
    for log in sorted(folder.glob("sanitizer-*.log")):
        said = re.findall(r"^=+ ((?:ERROR|RACECHECK) SUMMARY.*)$", log.read_text(), re.MULTILINE)
        summary = said[-1] if said else f"no summary: see {log.name}"
        lines.append(f"- {log.stem.removeprefix('sanitizer-')}: {summary}")
    return lines or ["Not run."]


def figures(result: dict[str, Any]) -> Iterator[list[str]]:
    """The headline figures of the benchmark."""
    counts = {work["name"]: work["counts"].get("onepass", {}) for work in result["traces"]}
    for section, title in (
        ("workloads", "AdamW"),
        ("graphs", "AdamW in a CUDA graph"),
        ("algorithms", "Algorithms"),
    ):
        rows = [row(work, counts.get(work["name"], {})) for work in result[section]]
        if rows:
            titles = ("what", "step", "times as fast", "as", "of a copy", "host", "kernels",
                      "waits")  # fmt: skip
            yield [f"## {title}", "", *table(titles, rows)]
    kept = [
        (f"{section}: {work['name']}: {one['what']}", one)
        for section in ("workloads", "graphs", "traces", "algorithms")
        for work in result[section]
        for one in work["promises"]
    ]
    met = sum(one["met"] is True for _, one in kept)
    broken = [f"- {where}: {one['value']}" for where, one in kept if one["met"] is not True]
    yield ["## Promises", "", f"{met} of {len(kept)} met; not met, or not seen:", "",
           *(broken or ["none"])]  # fmt: skip
    if wrong := dict(problems(result)):
        yield ["## Problems", "", *list_of(wrong)]


def row(work: dict[str, Any], counts: dict[str, Any]) -> tuple[str, ...]:
    """The figures of onepass on one workload, beside the baseline."""
    if "onepass" not in work["warm"]:
        return (work["name"], "absent", *[""] * 6)
    own, host = work["warm"]["onepass"], work["host"]["onepass"]
    return (
        work["name"],
        f"{own['seconds']['median'] * 1e6:.1f} us",
        f"{own['speedup']['median']:.3g}" if work["baseline"] != "onepass" else "",
        work["baseline"] if work["baseline"] != "onepass" else "",
        f"{own['share_of_copy']:.1%}",
        f"{host['seconds']['median'] * 1e6:.1f} us",
        f"{counts['kernels']:g}" if counts else "",
        f"{counts['waits']:g}" if counts.get("waits") is not None else "",
    )


def problems(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Who was absent or computed something else, what failed and what was left out."""
    for section in ("workloads", "graphs", "traces", "algorithms"):
        for work in result[section]:
            for kind in ("absent", "differs"):
                for name, why in work.get(kind, {}).items():
                    if name == "onepass" or kind == "differs":
                        yield f"{section}: {work['name']}: {name}", why
    yield from result["failed"].items()
    yield from ((name, "no time left") for name in result["left_out"])


def list_of(entries: dict[str, str]) -> list[str]:
    return [f"- {name}: {value}" for name, value in entries.items()]


def table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """A table in Markdown."""
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def main() -> None:
    """`missing` prints what is to be installed, a package a line; `report FOLDER` writes it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("command", choices=["missing", "report"])
    parser.add_argument("folder", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "missing":
        print("\n".join(missing()))
    elif arguments.folder is None:
        parser.error("report needs a folder")
    else:
        (arguments.folder / REPORT).write_text(report(arguments.folder))


if __name__ == "__main__":
    main()
