"""All that steers one request, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from steerd.steering.intervention import Intervention
from steerd.steering.scope import RoleSpan
from steerd.steering.trigger import Trigger


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

    def switched(self, interventions: tuple[Intervention, ...]) -> Steering:
        """What it becomes when these take the place of the request's own; policies stay."""
        return replace(self, interventions=(*interventions, *self.demanded))

    def unsteered(self) -> Steering:
        """What is left of it where the request's own wishes are set aside, in its baseline: policies."""
        return Steering(interventions=self.demanded, policies=self.policies)
