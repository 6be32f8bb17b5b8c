"""Whole texts through the host beside the steps, steered by the same code as requests are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from steerd.engine.faults import too_strong
from steerd.engine.readings import StepReadings
from steerd.engine.tally import Tallies
from steerd.engine.triggers import Triggers, policy_stopped
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.known_streams import KnownStreams
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.receipt import Receipt, TriggerReceipt
from steerd.steering.request_wishes import RequestWishes
from steerd.steering.row_span import RowSpan
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlan, StepPlanner

Reader = Callable[[Tensor], None]
"""Sees rows [rows, d_model], those of the first text before those of the second; to be copied if kept."""

_NONE: Mapping[HookPoint, Reader] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class SteeredText:
    """A text, what steers it, and from where on its rows count as generated ones."""

    prompt_ids: tuple[int, ...]
    continuation: tuple[int, ...] = ()
    steering: Steering = field(default_factory=Steering)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All of it; each has a row."""
        return (*self.prompt_ids, *self.continuation)


class SteeredForward:
    """Runs whole texts with the tables and hooks of the engine. For studies: on the engine's thread, in a
    slice, without gradients."""

    def __init__(self, host: HostModel, planner: StepPlanner, saes: LoadedSaes | None = None) -> None:
        """`saes` are those that the texts' steering is for; None: those served when they run."""
        self._host = host
        self._planner = planner
        self._saes = saes

    def run(
        self,
        texts: Sequence[SteeredText],
        *,
        before: Mapping[HookPoint, Reader] = _NONE,
        after: Mapping[HookPoint, Reader] = _NONE,
        streams: KnownStreams | None = None,
    ) -> list[Receipt]:
        """Run texts of one length; returns what the steering of each did, and what fired.

        Readers are shown the rows at their hook points `before` or `after` all edits there. The head does not
        run, nor do, with `streams`, layers before all edits and readers whose output is known there. Raises
        Forbidden for a text that a policy ends, InvalidRequest for steering that the host cannot bear,
        HostError for a direction at a hook point that the host does not have.
        """
        token_ids = torch.tensor([text.token_ids for text in texts])  # [texts, tokens]
        tallies = Tallies()
        with self._resolved(texts) as wishes, self._planner.beside(_spans(texts), wishes) as plan:
            for each in wishes.values():
                tallies.start(each)
            points = {*before, *after, *plan.points}
            last = HookPoint(max((point.layer for point in points), default=0), "resid_post")
            is_finite: list[Tensor] = []
            check = {last: lambda rows: is_finite.append(rows.isfinite().all())}
            with self._planner.at_rest():
                begun = nullcontext() if streams is None else streams.begin(points, token_ids)
            with begun, self._shown(before, after), self._shown({}, check):
                self._host.run(token_ids, None, until=last)
            _check_rows(texts, is_finite[0])
            plan.settle()
            fired = _fired(texts, plan, wishes)
            tallies.add(StepReadings(plan))
            receipts = map(tallies.receipt, wishes.values())
            return [replace(receipt, fired=uses) for receipt, uses in zip(receipts, fired, strict=True)]

    @contextmanager
    def _resolved(self, texts: Sequence[SteeredText]) -> Iterator[dict[str, RequestWishes]]:
        """By text, its wishes, with columns and slots as long as the block lasts."""
        wishes: dict[str, RequestWishes] = {}
        try:
            for number, text in enumerate(texts):
                wishes[str(number)] = self._planner.resolve(
                    prompt_ids=text.prompt_ids, steering=text.steering, saes=self._saes
                )
            yield wishes
        finally:
            for each in wishes.values():
                self._planner.release(each)

    @contextmanager
    def _shown(self, before: Mapping[HookPoint, Reader], after: Mapping[HookPoint, Reader]) -> Iterator[None]:
        handles = []
        try:
            for readers, first in ((before, True), (after, False)):
                for point, reader in readers.items():
                    handles.append(self._host.attach(point, partial(_show, reader), first=first))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _show(reader: Reader, rows: Tensor) -> None:
    reader(rows)


def _spans(texts: Sequence[SteeredText]) -> list[RowSpan]:
    length = len(texts[0].token_ids)
    return [RowSpan(str(number), number * length, 0, text.token_ids) for number, text in enumerate(texts)]


def _check_rows(texts: Sequence[SteeredText], is_finite: Tensor) -> None:
    if is_finite:
        return
    if any(text.steering.numbered for text in texts):
        raise too_strong("the host's rows")
    raise RuntimeError("the host gave rows that are not finite for a study")


def _fired(
    texts: Sequence[SteeredText], plan: StepPlan, wishes: Mapping[str, RequestWishes]
) -> list[tuple[TriggerReceipt, ...]]:
    """What fires in each text. The triggers of policies, which are all that there are, must let it be."""
    bits = plan.bits()
    if bits is None:
        return [()] * len(texts)
    told = []
    for span, text in zip(_spans(texts), texts, strict=True):
        triggers = Triggers(wishes[span.request_id].triggers)
        firings = triggers.see(bits[span.rows.start : span.rows.stop], 0)
        if triggers.is_stopped:
            raise policy_stopped(firings, text.steering, field="text")
        told.append(triggers.fired)
    return told
