"""What steered the text of a study, as told to its client."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.steering.intervention import Direction, FeatureRef, Intervention, WholeSae, operation_name
from steerd.steering.receipt import NO_RECEIPT, Receipt
from steerd.steering.steering import NamedVersion, Steering


@dataclass(frozen=True, kw_only=True, slots=True)
class AppliedSteering:
    """The interventions in force, units resolved, those of presets and policies included, and what they did.

    Equal plan hashes steer equally.
    """

    interventions: tuple[Intervention, ...] = ()
    presets: tuple[NamedVersion, ...] = ()
    policies: tuple[NamedVersion, ...] = ()
    warnings: tuple[str, ...] = ()
    plan_hash: str = ""
    receipt: Receipt = NO_RECEIPT


UNSTEERED = AppliedSteering()


def applied(steering: Steering, plan_hash: str, receipt: Receipt) -> AppliedSteering:
    """Of the steering of a study's text, with a warning of every intervention of its own that did nothing."""
    idle = [
        edit
        for edit, done in zip(steering.interventions, receipt.interventions, strict=False)
        if done.rows == 0 and not edit.is_demanded
    ]
    return AppliedSteering(
        interventions=steering.interventions,
        presets=steering.presets,
        policies=steering.policies,
        warnings=(*steering.warnings, *map(_warning, idle)),
        plan_hash=plan_hash,
        receipt=receipt,
    )


def _warning(edit: Intervention) -> str:
    match edit.target:
        case FeatureRef(sae, index):
            target = f"{sae}:{index}"
        case WholeSae(sae):
            target = sae
        case Direction(hook_point):
            target = f"a direction at {hook_point}"
    return f"{operation_name(edit.operation)} of {target} was made on no token of this text"
