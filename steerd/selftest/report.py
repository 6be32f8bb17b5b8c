"""What each check found, beside its bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Any


class Status(Enum):
    """How a check ended. A warning is for people; it fails nothing."""

    PASSED = "passed"
    FAILED = "failed"
    WARNING = "warning"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """Of one check: its worst figure and the bound it is held to, None where there is none; and a remark."""

    status: Status
    worst: float | None
    bound: float | None
    remark: str


@dataclass(frozen=True, slots=True)
class Report:
    """What all checks of one host with its SAEs found, by their names."""

    host: str
    dtype: str
    device: str
    saes: tuple[str, ...]
    seconds: float
    findings: Mapping[str, Finding]

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [name for name, finding in self.findings.items() if finding.status is Status.FAILED]

    def table(self) -> str:
        """All of it as text, a line a check."""
        header = ("check", "worst", "bound", "result", "remark")
        rows = [header, *(_cells(name, finding) for name, finding in self.findings.items())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [_line(row, widths) for row in rows]
        saes = ", ".join(self.saes) or "none"
        title = f"{self.host} in {self.dtype} on {self.device}, SAEs {saes}: {self._verdict()}"
        return "\n".join([title, *lines])

    def record(self) -> dict[str, Any]:
        """All of it as plain data, for JSON."""
        checks = [
            {
                "name": name,
                "status": finding.status.value,
                "worst": _finite(finding.worst),
                "bound": finding.bound,
                "remark": finding.remark,
            }
            for name, finding in self.findings.items()
        ]
        return {
            "passed": not self.failed,
            "host": self.host,
            "dtype": self.dtype,
            "device": self.device,
            "saes": list(self.saes),
            "seconds": round(self.seconds, 3),
            "checks": checks,
        }

    def _verdict(self) -> str:
        checks = f"{len(self.findings)} checks in {self.seconds:.0f} s"
        return f"{len(self.failed)} of {checks} failed" if self.failed else f"passed {checks}"


def _cells(name: str, finding: Finding) -> tuple[str, ...]:
    numbers = (_number(finding.worst), _number(finding.bound))
    return (name, *numbers, finding.status.value, finding.remark)


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and isfinite(value) else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
