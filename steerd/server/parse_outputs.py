"""A RankOutputsRequest -> OutputWish."""

from __future__ import annotations

from steerd.host.text import encode_prompt
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.dose_texts import NEUTRAL
from steerd.server.parse_study import StudyParser
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSae
from steerd.steering.steering import Steering
from steerd.studies.output_table import OutputWish

_DEFAULT_TOP = 20


def parse_outputs(message: pb.RankOutputsRequest, parser: StudyParser, plain: Steering) -> OutputWish:
    """What is to be scored, recording every broken rule with the parser."""
    violations, limits = parser.violations, parser.config.limits
    parser.common(message)
    top = message.top if message.HasField("top") else _DEFAULT_TOP
    violations.must_be_between("top", top, 1, limits.max_ranked_features)
    saes = parser.sae_names("saes", message.saes)
    if message.features and message.saes:
        violations.add("saes", "must be empty where features are named")
    features = parser.features("features", message.features, most=limits.max_ranked_features)
    if not message.features:
        features = tuple(ref for sae in parser.saes if sae.name in saes for ref in _live(sae))
        violations.must(bool(features), "saes", "SAEs that have a feature that is not dead", list(saes))
    return OutputWish(
        features=features,
        neutral=tuple(encode_prompt(parser.host.tokenizer, NEUTRAL)),
        plain=plain,
        top=top,
    )


def _live(loaded: LoadedSae) -> list[FeatureRef]:
    """All features, or those that are not recorded as dead."""
    dead = set() if loaded.statistics is None else set(loaded.statistics.dead.nonzero().flatten().tolist())
    indices = (index for index in range(loaded.sae.d_sae) if index not in dead)
    return [FeatureRef(loaded.name, index) for index in indices]
