"""What interventions that come together, a request's own and those of presets, must not do to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.host.hook_point import HookPoint
from steerd.server.violations import Violations
from steerd.steering.intervention import Add, Direction, FeatureRef, Intervention, Target, WholeSae
from steerd.steering.loaded_saes import LoadedSaes


@dataclass(frozen=True, slots=True)
class PlacedEdit:
    """An intervention, and the field of the request or the key of the configuration that asks for it."""

    place: str
    intervention: Intervention


def check_conflicts(edits: Sequence[PlacedEdit], saes: LoadedSaes, violations: Violations) -> None:
    """Record what has no meaning together."""
    _check_repeated(edits, violations)
    _check_reconstructions(edits, saes, violations)


def printed(target: Target) -> str:
    """A target in a sentence."""
    match target:
        case FeatureRef(sae, index):
            return f"feature {sae}:{index}"
        case Direction(hook_point):
            return f"the same direction at {hook_point}"
        case WholeSae(sae):
            return f"SAE {sae!r}"


def _check_repeated(edits: Sequence[PlacedEdit], violations: Violations) -> None:
    """Several edits of one target have a meaning only when all add."""
    first: dict[Target, Intervention] = {}
    for edit in edits:
        earlier = first.setdefault(edit.intervention.target, edit.intervention)
        all_add = isinstance(earlier.operation, Add) and isinstance(edit.intervention.operation, Add)
        if earlier is not edit.intervention and not all_add:
            problem = f"{printed(edit.intervention.target)} is edited more than once"
            violations.add(edit.place, f"{problem}; several edits of one target must all be add")


def _check_reconstructions(edits: Sequence[PlacedEdit], saes: LoadedSaes, violations: Violations) -> None:
    """A row has one reconstruction, so SAEs of one hook point cannot both take its place."""
    taken: dict[HookPoint, str] = {}
    for edit in edits:
        target = edit.intervention.target
        if isinstance(target, WholeSae):
            hook_point = saes.hook_point(target)
            if taken.setdefault(hook_point, target.sae) != target.sae:
                problem = f"rows at {hook_point} are reconstructed by {taken[hook_point]!r} already"
                violations.add(f"{edit.place}.reconstruct", problem)
