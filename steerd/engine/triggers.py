"""The triggers of one running request: when they fire, and what is to come of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steerd.engine.events import Firing
from steerd.errors import Forbidden
from steerd.steering.receipt import TriggerReceipt
from steerd.steering.request_wishes import ResolvedTrigger
from steerd.steering.steering import Steering
from steerd.steering.trigger import Stop, Switch, Trigger, action_name


class Triggers:
    """Follows the rows of a request in their order."""

    def __init__(self, triggers: Sequence[ResolvedTrigger]) -> None:
        self._triggers = triggers
        self._held = [False] * len(triggers)
        self._has_switched = False
        self._stopped_on: int | None = None
        self._switch: Switch | None = None
        self._times = [0] * len(triggers)
        self._first_positions = [0] * len(triggers)  # without meaning for one that never fired

    def see(self, bits: NDArray[np.int64], first_position: int) -> list[Firing]:
        """What fires on the coming rows [rows], by position; nothing after one that ends the text."""
        fired = []
        for number, resolved in enumerate(self._triggers):
            holds = np.any([bits & need == need for need in resolved.needs], axis=0)
            held = np.concatenate([[self._held[number]], holds[:-1]])
            self._held[number] = bool(holds[-1])
            fired += [(int(row), number) for row in np.flatnonzero(holds & ~held)]
        firings = []
        for row, number in sorted(fired):
            trigger = self._triggers[number].trigger
            if self._stopped_on is not None and row > self._stopped_on:
                break
            firings.append(Firing(trigger.name, first_position + row))
            if not self._times[number]:
                self._first_positions[number] = first_position + row
            self._times[number] += 1
            match trigger.action:
                case Stop():
                    self._stopped_on = row
                case Switch() if not self._has_switched:
                    self._has_switched, self._switch = True, trigger.action
        return firings

    @property
    def fired(self) -> tuple[TriggerReceipt, ...]:
        """Those that fired so far, in their order."""
        told = zip(self._triggers, self._times, self._first_positions, strict=True)
        return tuple(
            _receipt(resolved.trigger, times, first_position)
            for resolved, times, first_position in told
            if times
        )

    @property
    def is_stopped(self) -> bool:
        """Whether one of them has ended the text."""
        return self._stopped_on is not None

    def take_switch(self) -> Switch | None:
        """What is to take the place of the request's interventions, told once."""
        switch, self._switch = self._switch, None
        return switch


def _receipt(trigger: Trigger, times: int, first_position: int) -> TriggerReceipt:
    return TriggerReceipt(trigger.name, action_name(trigger.action), trigger.source, times, first_position)


def policy_stopped(firings: Sequence[Firing], steering: Steering, *, field: str) -> Forbidden:
    """The refusal of a given text that a policy ends, where only policies have triggers."""
    names = {firing.trigger for firing in firings}
    stops = (each for each in steering.triggers if each.name in names and isinstance(each.action, Stop))
    trigger = next(stops)
    policy = trigger.source.removeprefix("policy:")
    message = f"trigger {trigger.name!r} of policy {policy} ends this text"
    return Forbidden(message, field=field, policy=policy, reason="POLICY_STOPPED")
