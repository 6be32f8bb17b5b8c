"""The run's log: one JSON object a line in a file, and a progress bar for whoever watches."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

_NUMBERS_BETWEEN_REDRAWS = 0.5  # seconds; a log file that stands for a terminal stays short


class RunLog:
    """Appends records to `path`, each flushed at once; shows how far each stage of the run is.

    Of several processes one speaks: the others' logs are not `active` and leave no trace.
    """

    def __init__(self, path: Path, *, active: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = (path if active else Path(os.devnull)).open("a", encoding="utf-8")
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            refresh_per_second=1 / _NUMBERS_BETWEEN_REDRAWS,
            disable=not active,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()

    def write(self, event: str, **values: Any) -> None:  # Any: JSON values
        """Append one record with its wall-clock time."""
        self._file.write(json.dumps({"event": event, "time": round(time.time(), 3), **values}) + "\n")
        self._file.flush()

    def stage(self, description: str, total: int, unit: str = "tok") -> Stage:
        """Begin a stage of `total` tokens, or of what `unit` says, with a line of its own."""
        return Stage(self._progress, self._progress.add_task(description, total=total, numbers=""), unit)


class Stage:
    """One line of the progress display."""

    def __init__(self, progress: Progress, task: TaskID, unit: str) -> None:
        self._unit = unit
        self._progress = progress
        self._task = task
        self._started = time.monotonic()
        self._done = 0

    def found(self, tokens: int) -> None:
        """Count tokens that an earlier run had done."""
        self._progress.advance(self._task, tokens)

    def advance(self, tokens: int, **numbers: float) -> None:
        """Move on by `tokens` and show the numbers, tokens per second last."""
        self._done += tokens
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        shown = [f"{name} {value:.4g}" for name, value in numbers.items()] + [_rate(rate, self._unit)]
        self._progress.update(self._task, advance=tokens, numbers="  ".join(shown))


def _rate(number: float, unit: str) -> str:
    return f"{number:,.0f} {unit}/s" if number >= 10 else f"{number:.2g} {unit}/s"
