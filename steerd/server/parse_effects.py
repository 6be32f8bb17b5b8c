"""A MeasureEffectsRequest -> EffectWish."""

from __future__ import annotations

from collections.abc import Callable

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.edit_conflicts import PlacedEdit
from steerd.server.parse_steered import SteeredParser
from steerd.steering.intervention import Ablate, FeatureRef, Intervention
from steerd.steering.scope import Scope
from steerd.steering.steering import Steering
from steerd.studies.token_effects import Ablation, EffectWish


def parse_effects(
    message: pb.MeasureEffectsRequest, parser: SteeredParser, plan_hash: Callable[[Steering], str]
) -> EffectWish:
    """What is to be ablated. Raises what is wrong with the request."""
    violations = parser.study.violations
    text = parser.text()
    violations.must_not_be_empty("features", message.features)
    most = parser.study.config.limits.max_watched_features
    features = parser.study.features("features", message.features, most=most)
    if text is not None:
        parser.values(2 * len(message.features) * len(text.token_ids), "features")
        field = message.text.WhichOneof("input")
        violations.must(
            len(text.token_ids) > 1, f"text.{field}", "at least 2 tokens long", len(text.token_ids)
        )
    violations.raise_if_any()
    assert text is not None  # otherwise a violation was recorded
    scope = Scope(include_special_tokens=message.include_special_tokens)
    ablations = [
        _ablation(feature, f"features[{number}]", scope, text.prompt_ids, parser)
        for number, feature in enumerate(features)
    ]
    violations.raise_if_any()  # with the rest of what steers the text, or with a policy
    return EffectWish(text=text, plan_hash=plan_hash(text.steering), ablations=tuple(ablations))


def _ablation(
    feature: FeatureRef, place: str, scope: Scope, prompt_ids: tuple[int, ...], parser: SteeredParser
) -> Ablation:
    ablate = Intervention(target=feature, operation=Ablate(), scope=scope)
    return Ablation(feature, parser.steered(prompt_ids, [PlacedEdit(place, ablate)]))
