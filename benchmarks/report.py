"""What every benchmark ends with: tables, a line a target, and a JSON file that says how it was measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS_FOLDER = Path(__file__).parent / "results"

Row = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Target:
    """A measured value and the bound it should keep; `at_least` says on which side."""

    name: str
    value: float
    bound: float
    at_least: bool

    @property
    def ok(self) -> bool:
        """Whether the bound is kept; NaN keeps none."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"target {self.name} {self.value:.4g} {sign}{self.bound:g} {'ok' if self.ok else 'short'}"


class Report:
    """Collects the rows and targets of one benchmark and writes them at the end."""

    def __init__(self, name: str, *, out: Path | None, console: Console | None = None) -> None:
        """`out` is the result file, None for none."""
        self._name = name
        self.out = out
        self._console = console or Console(width=None if sys.stdout.isatty() else 160)
        self._tables: dict[str, list[Row]] = {}
        self._targets: list[Target] = []
        self._conditions = conditions()  # as they were before the benchmark loaded the machine itself

    def add_rows(self, title: str, rows: Sequence[Row]) -> None:
        """Add rows, which all have the same keys, to the table of that title."""
        self._tables.setdefault(title, []).extend(rows)

    def at_least(self, name: str, value: float, bound: float) -> None:
        """Record a target: value >= bound."""
        self._targets.append(Target(name, value, bound, at_least=True))

    def at_most(self, name: str, value: float, bound: float) -> None:
        """Record a target: value <= bound."""
        self._targets.append(Target(name, value, bound, at_least=False))

    def finish(self) -> None:
        """Print the tables and, last, the target lines; write the result file."""
        for title, rows in self._tables.items():
            self._console.print(_table(title, rows))
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(self._as_json(), indent=1) + "\n", encoding="utf-8")
        for target in self._targets:
            print(target)

    def _as_json(self) -> dict[str, Any]:
        targets = [asdict(target) | {"ok": target.ok} for target in self._targets]
        return {"benchmark": self._name, **self._conditions, "rows": self._tables, "targets": targets}


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share: --quick and --out."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="less work; no result file unless --out is given"
    )
    parser.add_argument("--out", type=Path, help="the result file, instead of benchmarks/results/NAME.json")
    return parser


def report_for(name: str, options: argparse.Namespace) -> Report:
    """The report of a benchmark run with these options."""
    default = None if options.quick else RESULTS_FOLDER / f"{name}.json"
    return Report(name, out=options.out or default)


def conditions() -> dict[str, Any]:
    """When, where and with what this process measures. A load above 0 at its start means a busy machine."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", _module_name(), *map(_portable, sys.argv[1:])]),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("steerd", "torch", "transformers")},
    }


def _portable(argument: str) -> str:
    """The argument, without the folders of this machine."""
    return f".../{Path(argument).name}" if Path(argument).is_absolute() else argument


def _module_name() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else Path(sys.argv[0]).stem


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for key, value in rows[0].items():
        table.add_column(key, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    return table


def _shown(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
