"""What the steering of a request really did, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InterventionReceipt:
    """What one intervention did to the rows it was made on: in scope, of some strength, its condition held.

    It added something to `rows_changed` of `rows`. Means are over `rows`, 0 where there are none: the length
    of what it added by the length of the row, and its target's activation before and after all edits of the
    hook point (0 for a whole SAE).
    """

    rows: int
    rows_changed: int
    mean_relative_norm: float
    mean_before: float
    mean_after: float


@dataclass(frozen=True, slots=True)
class HookPointReceipt:
    """What all of a request's interventions at one hook point did together.

    The length of a row's change by the length of the row: its mean over the rows that changed, its largest.
    """

    hook_point: str
    rows_changed: int
    mean_relative_norm: float
    max_relative_norm: float


@dataclass(frozen=True, slots=True)
class TriggerReceipt:
    """A trigger that fired: how often, at least once, and the position of the first time.

    `action` is stop, switch or flag; `source` as the trigger's.
    """

    name: str
    action: str
    source: str
    times: int
    first_position: int


@dataclass(frozen=True, slots=True)
class SwitchReceipt:
    """A preset took the place of a request's interventions, on the rows from a position on."""

    preset: str
    first_position: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a request's steering did: in the order of its interventions, of the forward, and of its triggers.

    `fired` has only the triggers that did; `switched` is there when one of them put a preset in place.
    """

    interventions: tuple[InterventionReceipt, ...] = ()
    hook_points: tuple[HookPointReceipt, ...] = ()
    fired: tuple[TriggerReceipt, ...] = ()
    switched: SwitchReceipt | None = None


NO_RECEIPT = Receipt()
"""That of a request that was not steered."""
