"""A ContrastFeaturesRequest -> ContrastWish."""

from __future__ import annotations

from collections.abc import Sequence

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.parse_study import StudyParser
from steerd.studies.contrast_table import ContrastWish, Strength
from steerd.study_wire.contrast import STRENGTHS

_FEWEST_TEXTS = 4  # two for each half
_DEFAULT_RATE = 0.05
_DEFAULT_TOP = 20

Texts = tuple[tuple[int, ...], ...]


def parse_contrast(message: pb.ContrastFeaturesRequest, parser: StudyParser) -> ContrastWish:
    """What is to be compared, recording every broken rule with the parser."""
    violations, limits = parser.violations, parser.config.limits
    parser.common(message)
    a, b = (_texts(field, getattr(message, field), message, parser) for field in ("a", "b"))
    total = sum(map(len, (*a, *b)))
    violations.must_be_at_most("b", total, limits.max_study_tokens, "tokens together with a")
    rate = message.false_discovery_rate if message.HasField("false_discovery_rate") else _DEFAULT_RATE
    violations.must(0 < rate < 1, "false_discovery_rate", "above 0 and below 1", rate)
    top = message.top if message.HasField("top") else _DEFAULT_TOP
    violations.must_be_between("top", top, 1, limits.max_ranked_features)
    names: dict[int, Strength] = {each: name for name, each in STRENGTHS.items()}
    names[pb.TEXT_STRENGTH_UNSPECIFIED] = "peak"
    violations.must(message.strength in names, "strength", "a TextStrength", message.strength)
    return ContrastWish(
        a=a,
        b=b,
        saes=parser.sae_names("saes", message.saes),
        strength=names.get(message.strength, "peak"),
        false_discovery_rate=rate,
        top=top,
        seed=message.seed,
        include_special_tokens=message.include_special_tokens,
    )


def _texts(
    field: str, messages: Sequence[pb.Text], message: pb.ContrastFeaturesRequest, parser: StudyParser
) -> Texts:
    """The ids of one set, in each of which some token counts."""
    texts = parser.texts(field, messages)
    bound = f"at least {_FEWEST_TEXTS} texts, as one half has to confirm the other"
    parser.violations.must(not texts or len(texts) >= _FEWEST_TEXTS, field, bound, len(texts))
    parser.must_count(field, texts, include_special_tokens=message.include_special_tokens)
    return texts
