"""What the operator's policies make of the steering that a request asks for: no request gets around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from steerd.errors import Forbidden
from steerd.server.allowance import Allowance
from steerd.server.dose import DoseGuard
from steerd.server.edit_conflicts import printed
from steerd.server.violations import Violations
from steerd.steering.intervention import Intervention, Target
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import NamedVersion, Steering
from steerd.steering.trigger import Trigger


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


class Policies:
    """All policies, which hold together. The only maker of steering that a request may run with."""

    def __init__(self, policies: Sequence[Policy], saes: LoadedSaes) -> None:
        self._policies = tuple(policies)
        self._saes = saes

    def __iter__(self) -> Iterator[Policy]:
        return iter(self._policies)

    def govern(self, asked: Steering, places: Sequence[str], violations: Violations) -> Steering:
        """The steering with what policies lower of it and add to it, recording what they refuse.

        `places` are the fields of its interventions, in order.
        """
        for policy in self._policies:
            for error in self._refusals(policy, asked, places):
                violations.add_forbidden(error)
            asked = _capped(policy, asked, places, violations)
        self._check_names(asked, violations)
        demanded = tuple(edit for policy in self._policies for edit in policy.interventions)
        triggers = tuple(trigger for policy in self._policies for trigger in policy.triggers)
        return replace(
            asked,
            interventions=(*asked.interventions, *demanded),
            triggers=(*asked.triggers, *triggers),
            policies=tuple(policy.named for policy in self._policies),
        )

    def _check_names(self, asked: Steering, violations: Violations) -> None:
        """What fires is told by name."""
        taken = {trigger.name: policy for policy in self._policies for trigger in policy.triggers}
        for position, trigger in enumerate(asked.triggers):
            if trigger.name in taken:
                bound = f"unlike those of policy {taken[trigger.name].named}"
                violations.must(False, f"triggers[{position}].name", bound, trigger.name)

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

    def _refusals(self, policy: Policy, asked: Steering, places: Sequence[str]) -> Iterator[Forbidden]:
        if policy.allowance is not None:
            for position, named in enumerate(asked.presets):
                if not policy.allowance.allows_preset(named):
                    yield policy.refused(f"does not allow preset {named}", f"presets[{position}]")
        for edit, place in zip(asked.interventions, places, strict=True):
            its_own = not edit.source
            if its_own and policy.allowance is not None and not policy.allowance.allows_edit(edit.target):
                yield policy.refused(f"does not allow edits of {printed(edit.target)}", place)
            if (reason := self.undone(policy, edit.target)) is not None:
                yield policy.refused(reason, place)


def _capped(policy: Policy, asked: Steering, places: Sequence[str], violations: Violations) -> Steering:
    """The steering within the policy's cap. What it can add must be known."""
    if policy.cap is None:
        return asked
    for edit, place in zip(asked.interventions, places, strict=True):
        if policy.cap.uncounted(edit):
            unknown = "caps what is added, and how active its target gets is not known"
            violations.add_forbidden(policy.refused(unknown, place))
    guarded = policy.cap.guard(asked.interventions)
    for refusal in guarded.refusals:
        violations.add_forbidden(policy.refused(f"caps what is added: {refusal}", "interventions"))
    told = tuple(f"policy {policy.named}: {warning}" for warning in guarded.warnings)
    return replace(asked, interventions=guarded.interventions, warnings=(*asked.warnings, *told))
