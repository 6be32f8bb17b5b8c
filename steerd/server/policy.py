"""What the operator's policies make of the steering that a request asks for: no request gets around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from steerd.errors import Forbidden
from steerd.server.allowance import Allowance
from steerd.server.dose import DoseGuard
from steerd.server.edit_conflicts import PlacedEdit, printed
from steerd.server.parse_trigger import PlacedTrigger
from steerd.server.violations import Violations
from steerd.steering.intervention import Intervention, Target
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import NamedVersion, Steering
from steerd.steering.trigger import Switch, Trigger


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for every request: edits of its rows, what features fire, and what it may ask for.

    None allows anything.
    """

    named: NamedVersion
    description: str
    interventions: tuple[Intervention, ...]
    triggers: tuple[Trigger, ...]
    allowance: Allowance | None
    cap: DoseGuard | None

    def refused(self, message: str, field: str) -> Forbidden:
        """The refusal of a field."""
        return Forbidden(f"{field}: policy {self.named} {message}", field=field, policy=str(self.named))


@dataclass(frozen=True, slots=True)
class _Together:
    """Edits that are made together, and presets by name@version, each with the field that asks for it.

    `field` is that of all the edits.
    """

    field: str
    edits: tuple[PlacedEdit, ...]
    presets: tuple[tuple[str, str], ...]


class Policies:
    """All policies, which hold together. The only maker of steering that a request may run with."""

    def __init__(self, policies: Sequence[Policy], saes: LoadedSaes) -> None:
        self._policies = tuple(policies)
        self._saes = saes

    def __iter__(self) -> Iterator[Policy]:
        return iter(self._policies)

    def govern(
        self,
        asked: Steering,
        places: Sequence[str],
        triggers: Sequence[PlacedTrigger],
        violations: Violations,
    ) -> Steering:
        """The steering with what policies lower of it and add to it, recording what they refuse.

        `places` are the fields of its interventions, in order; `triggers` are the request's, which it gets.
        """
        own = _Together(
            "interventions",
            tuple(map(PlacedEdit, places, asked.interventions)),
            tuple((f"presets[{number}]", str(named)) for number, named in enumerate(asked.presets)),
        )
        interventions, warnings = self._lowered(own, violations)
        governed = []
        for each in triggers:
            trigger, told = self._governed(each, violations)
            governed.append(trigger)
            warnings += told
        self._check_names(triggers, violations)
        demanded = (edit for policy in self._policies for edit in policy.interventions)
        return replace(
            asked,
            interventions=(*interventions, *demanded),
            triggers=(*governed, *(trigger for policy in self._policies for trigger in policy.triggers)),
            warnings=(*asked.warnings, *warnings),
            policies=tuple(policy.named for policy in self._policies),
        )

    def _governed(self, placed: PlacedTrigger, violations: Violations) -> tuple[Trigger, list[str]]:
        """A trigger, and warnings. What a switch brings is governed as what it takes the place of."""
        action, field = placed.trigger.action, placed.switch_place
        if not isinstance(action, Switch):
            return placed.trigger, []
        edits = tuple(PlacedEdit(field, edit) for edit in action.interventions)
        lowered, warnings = self._lowered(_Together(field, edits, ((field, action.preset),)), violations)
        return placed.trigger.bringing(lowered), [f"switch to {action.preset}: {told}" for told in warnings]

    def _lowered(
        self, asked: _Together, violations: Violations
    ) -> tuple[tuple[Intervention, ...], list[str]]:
        """The edits within every policy's cap, and warnings."""
        warnings: list[str] = []
        for policy in self._policies:
            for error in self._refusals(policy, asked):
                violations.add_forbidden(error)
            asked = _capped(policy, asked, warnings, violations)
        return tuple(edit.intervention for edit in asked.edits), warnings

    def _check_names(self, triggers: Sequence[PlacedTrigger], violations: Violations) -> None:
        """What fires is told by name."""
        taken = {trigger.name: policy for policy in self._policies for trigger in policy.triggers}
        for each in triggers:
            if (name := each.trigger.name) in taken:
                bound = f"unlike those of policy {taken[name].named}"
                violations.must(False, each.name_place, bound, name)

    def undone(self, policy: Policy, target: Target) -> str | None:
        """Why an edit of the target would take back what a policy does; None if it would not.

        Whatever else is edited at the same hook point is edited before it.
        """
        point = self._saes.hook_point(target)
        for edit in policy.interventions:
            if edit.target == target:
                return f"edits {printed(target)} itself"
            edited = self._saes.hook_point(edit.target)
            if point != edited and point.of_rows == edited:
                return f"edits these rows at {edited}, which comes before {point}"
        return None

    def _refusals(self, policy: Policy, asked: _Together) -> Iterator[Forbidden]:
        if policy.allowance is not None:
            for field, named in asked.presets:
                if not policy.allowance.allows_preset(named):
                    yield policy.refused(f"does not allow preset {named}", field)
        for edit in asked.edits:
            its_own, target = not edit.intervention.source, edit.intervention.target
            if its_own and policy.allowance is not None and not policy.allowance.allows_edit(target):
                yield policy.refused(f"does not allow edits of {printed(target)}", edit.place)
            if (reason := self.undone(policy, target)) is not None:
                yield policy.refused(reason, edit.place)


def _capped(policy: Policy, asked: _Together, warnings: list[str], violations: Violations) -> _Together:
    """The edits within the policy's cap, adding to the warnings. What they can add must be known."""
    if policy.cap is None:
        return asked
    for edit in asked.edits:
        if policy.cap.uncounted(edit.intervention):
            unknown = "caps what is added, and how active its target gets is not known"
            violations.add_forbidden(policy.refused(unknown, edit.place))
    guarded = policy.cap.guard([edit.intervention for edit in asked.edits])
    for refusal in guarded.refusals:
        violations.add_forbidden(policy.refused(f"caps what is added: {refusal}", asked.field))
    warnings += [f"policy {policy.named}: {warning}" for warning in guarded.warnings]
    lowered = zip(asked.edits, guarded.interventions, strict=True)
    return replace(asked, edits=tuple(PlacedEdit(edit.place, weaker) for edit, weaker in lowered))
