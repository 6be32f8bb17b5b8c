"""How time and memory grow with the batch (at context 128) and with the context (at batch 4).

steerd's engine with nothing asked of it and transformers' generate, each in a process of its own for every
point, decode side by side, a few steps each in turn; ratios are medians over pairs of steps. The peak is the
largest resident memory since the host was loaded; the engine's room for keys and values is made to fit the
point.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from rich.progress import track

from benchmarks.line_process import LineProcess, line_process
from benchmarks.report import Report, Row, parser_of, report_for
from benchmarks.scaling_process import ENGINE, GENERATE
from benchmarks.serving_process import GIB
from steerd.config import DEFAULT_MODEL

NAME = "scaling"
BATCHES, BATCH_CONTEXT = (1, 2, 4, 8, 16, 32, 64), 128
CONTEXTS, CONTEXT_BATCH = (64, 256, 512, 1024, 2048, 4096), 4
HELD_CONTEXTS = (64, 512, 2048)
DECODE_BOUND = 1.0

STEPS, STEPS_A_TURN = 24, 2


@dataclass(frozen=True, slots=True)
class Point:
    """How many requests at once, and how long their prompts are."""

    batch: int
    context: int


@dataclass(slots=True)
class Grown:
    """One system at one point."""

    prefill_seconds: float
    step_seconds: list[float] = field(default_factory=list)
    resident_bytes: int = 0
    peak_bytes: int = 0


def main() -> None:
    """Measure, print, write."""
    options = _options()
    report = report_for(NAME, options)
    points = points_of([2], [64]) if options.quick else points_of(options.batch, options.context)
    measure(report, points, host=DEFAULT_MODEL, steps=4 if options.quick else STEPS)
    report.finish()


def points_of(batches: Sequence[int], contexts: Sequence[int]) -> list[Point]:
    """First the batches, then the contexts, each point once."""
    points = [Point(batch, BATCH_CONTEXT) for batch in batches]
    return list(dict.fromkeys(points + [Point(CONTEXT_BATCH, context) for context in contexts]))


def measure(report: Report, points: Sequence[Point], *, host: str, steps: int) -> None:
    """Both systems at every point."""
    for point in track(points, description="measuring", transient=True):
        grown = measure_point(point, host, steps)
        for name, system in grown.items():
            report.add_rows("As the batch and the context grow", [_row(point, name, system)])
        if point.batch == CONTEXT_BATCH and point.context in HELD_CONTEXTS:
            pairs = zip(grown[ENGINE].step_seconds, grown[GENERATE].step_seconds, strict=True)
            over = median(theirs / ours for ours, theirs in pairs)
            report.at_least(f"decode_over_generate.context_{point.context}", over, DECODE_BOUND)


def measure_point(point: Point, host: str, steps: int) -> dict[str, Grown]:
    """Decode in two processes, in turn."""
    command = [sys.executable, "-m", "benchmarks.scaling_process"]
    threads = torch.get_num_threads()
    with line_process(command, threads=threads) as engine, line_process(command, threads=threads) as generate:
        processes = {ENGINE: engine, GENERATE: generate}
        grown = {name: _begin(process, name, point, host, steps) for name, process in processes.items()}
        for number in range(steps // STEPS_A_TURN):
            names = (ENGINE, GENERATE) if number % 2 == 0 else (GENERATE, ENGINE)
            for name in names:
                grown[name].step_seconds += processes[name].ask({"steps": STEPS_A_TURN})["seconds"]
        for name, process in processes.items():
            memory = process.ask({"end": True})
            grown[name].resident_bytes = memory["resident_bytes"]
            grown[name].peak_bytes = memory["peak_bytes"]
    return grown


def _begin(process: LineProcess, name: str, point: Point, host: str, steps: int) -> Grown:
    wish = {"host": host, "batch": point.batch, "context": point.context, "steps": steps}
    return Grown(process.ask({"begin": name, **wish})["prefill_seconds"])


def _row(point: Point, name: str, grown: Grown) -> Row:
    seconds = median(grown.step_seconds)
    return {
        "batch": point.batch,
        "context": point.context,
        "system": name,
        "ms a step": 1000 * seconds,
        "tokens a second": point.batch / seconds,
        "prompt tokens a second": point.batch * point.context / grown.prefill_seconds,
        "GiB loaded": grown.resident_bytes / GIB,
        "GiB at most": grown.peak_bytes / GIB,
    }


def _options() -> argparse.Namespace:
    parser = parser_of("Time and memory of steerd's engine and of generate as batch and context grow.")
    parser.add_argument("--batch", type=int, nargs="*", default=BATCHES)
    parser.add_argument("--context", type=int, nargs="*", default=CONTEXTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
