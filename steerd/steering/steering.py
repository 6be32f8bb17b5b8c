"""All that steers one request, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from steerd.steering.intervention import Intervention
from steerd.steering.scope import RoleSpan
from steerd.steering.trigger import Switch, Trigger


@dataclass(frozen=True, slots=True)
class NamedVersion:
    """A preset or a policy of the server's configuration."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Steering:
    """What is done to a request's rows, and what happens when features fire: its own interventions, those of
    its `presets`, those of the `policies` in force.

    `roles` says where in the prompt the messages of a chat stand, as far as interventions ask for roles;
    `warnings` are for the client.
    """

    interventions: tuple[Intervention, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    roles: tuple[RoleSpan, ...] = ()
    warnings: tuple[str, ...] = ()
    presets: tuple[NamedVersion, ...] = ()
    policies: tuple[NamedVersion, ...] = ()

    @property
    def demanded(self) -> tuple[Intervention, ...]:
        """The interventions of policies."""
        return tuple(intervention for intervention in self.interventions if intervention.is_demanded)

    @property
    def numbered(self) -> tuple[Intervention, ...]:
        """All that may come to be done: its interventions, then what its triggers bring, in their order."""
        return (*self.interventions, *(each for trigger in self.triggers for each in trigger.brings))

    def switched(self, switch: Switch) -> Steering:
        """What it becomes when those of a switch take the place of the request's own; policies stay."""
        return replace(self, interventions=(*switch.interventions, *self.demanded))

    def numbers_after(self, switch: Switch) -> tuple[int, ...]:
        """The numbers that the interventions after a switch have among all."""
        first = len(self.interventions)
        for trigger in self.triggers:
            if trigger.action is switch:
                break
            first += len(trigger.brings)
        kept = [number for number, edit in enumerate(self.interventions) if edit.is_demanded]
        return (*range(first, first + len(switch.interventions)), *kept)

    def unsteered(self) -> Steering:
        """What is left of it where the request's own wishes are set aside, in its baseline: policies."""
        return Steering(
            interventions=self.demanded,
            triggers=tuple(trigger for trigger in self.triggers if trigger.is_demanded),
            policies=self.policies,
        )
