"""What steering did to a probe's rows, written down as the naive hooks do it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from steerd.host.hook_point import HookPoint
from steerd.selftest.naive_rows import NaiveRows
from steerd.selftest.probes import Probe
from steerd.steering.intervention import FeatureTest
from steerd.steering.receipt import HookPointReceipt, InterventionReceipt, Receipt
from steerd.steering.trigger import Stop

_ROUNDING = 1e-5  # of a row's length


class NaiveRecord:
    """Of one forward of a probe."""

    def __init__(self, probe: Probe, rows: NaiveRows) -> None:
        self._probe = probe
        self._rows = rows
        self._edits: list[list[tuple[float, float, float]]] = [[] for _ in probe.interventions]
        self._lengths: list[list[float]] = [[] for _ in probe.interventions]
        self._changes: dict[HookPoint, Sequence[float]] = {}
        self._seen: dict[FeatureTest, Sequence[float]] = {}

    def see(self, test: FeatureTest, values: Sequence[float]) -> None:
        """What a trigger's test reads, by row."""
        self._seen[test] = values

    def edit(self, number: int, length: float, relative: float, before: float, after: float) -> None:
        """That an intervention was made on a row of some length: what it added as a share of that, and what
        its target was before and after all edits."""
        self._edits[number].append((relative, before, after))
        self._lengths[number].append(length)

    def change(self, point: HookPoint, relative: Sequence[float]) -> None:
        """What all of them changed at a hook point, by row, as a share of its length."""
        self._changes[point] = relative

    def receipt(self) -> Receipt:
        """What it all comes to, but for triggers. Changed are rows that no rounding changes so much."""
        return Receipt(
            tuple(map(_intervention, self._edits)),
            tuple(_hook_point(point, found) for point, found in self._changes.items()),
        )

    def lengths(self) -> tuple[float, ...]:
        """How long the rows are that each intervention was made on, on average; 0 where there is none."""
        return tuple(fmean(lengths) if lengths else 0.0 for lengths in self._lengths)

    def fired(self) -> frozenset[tuple[str, int]]:
        """The names of triggers and positions where they fire, none after one that ends the text."""
        fired = {
            (trigger.name, position)
            for trigger in self._probe.triggers
            for position in self._rows.fired(trigger.condition, self._seen)
        }
        stops = {trigger.name for trigger in self._probe.triggers if isinstance(trigger.action, Stop)}
        last = min((position for name, position in fired if name in stops), default=None)
        return frozenset(each for each in fired if last is None or each[1] <= last)


def _intervention(edits: Sequence[tuple[float, float, float]]) -> InterventionReceipt:
    if not edits:
        return InterventionReceipt(0, 0, 0.0, 0.0, 0.0)
    changed = sum(relative > _ROUNDING for relative, _, _ in edits)
    return InterventionReceipt(len(edits), changed, *map(fmean, zip(*edits, strict=True)))


def _hook_point(point: HookPoint, relative: Sequence[float]) -> HookPointReceipt:
    changes = [each for each in relative if each > _ROUNDING]
    mean, largest = (fmean(changes), max(changes)) if changes else (0.0, 0.0)
    return HookPointReceipt(str(point), len(changes), mean, largest)
