"""What is to happen when features fire, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from steerd.steering.intervention import Condition, Intervention


@dataclass(frozen=True, slots=True)
class Stop:
    """The text ends with the token it fired on; fired in the prompt, no token is made."""


@dataclass(frozen=True, slots=True)
class Flag:
    """It is only told."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A preset takes the place of the request's interventions, once.

    From the next row on; fired in the prompt, from the first generated one. The client names the preset, and
    the server fills in what it does.
    """

    preset: str
    interventions: tuple[Intervention, ...] = ()


Action = Stop | Flag | Switch


def action_name(action: Action) -> str:
    """Its name: stop, flag or switch."""
    return type(action).__name__.lower()


@dataclass(frozen=True, slots=True)
class Trigger:
    """Fires on each row where its condition comes to hold; its tests may be at any hook points.

    `source` is as Intervention's.
    """

    name: str
    condition: Condition
    action: Action
    source: str = ""

    @property
    def is_demanded(self) -> bool:
        """Whether a policy demands it."""
        return self.source.startswith("policy:")

    @property
    def brings(self) -> tuple[Intervention, ...]:
        """What may come to be done because of it."""
        return self.action.interventions if isinstance(self.action, Switch) else ()

    def bringing(self, interventions: tuple[Intervention, ...]) -> Trigger:
        """The same, if it is a switch, with others in place of those that it brings."""
        if not isinstance(self.action, Switch):
            return self
        return replace(self, action=replace(self.action, interventions=interventions))
