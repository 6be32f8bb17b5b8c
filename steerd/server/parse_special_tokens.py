"""A FindSpecialTokenFeaturesRequest -> SpecialTokensWish."""

from __future__ import annotations

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.dose_texts import default_prompts
from steerd.server.parse_study import StudyParser
from steerd.studies.special_token_table import SpecialTokensWish

_DEFAULT_TOP = 5


def parse_special_tokens(
    message: pb.FindSpecialTokenFeaturesRequest, parser: StudyParser
) -> SpecialTokensWish:
    """What is to be read, recording every broken rule with the parser."""
    parser.common(message)
    texts = message.texts or default_prompts(parser.host)
    top = message.top if message.HasField("top") else _DEFAULT_TOP
    parser.violations.must_be_between("top", top, 1, parser.config.limits.max_top_k)
    return SpecialTokensWish(
        texts=parser.texts("texts", texts), saes=parser.sae_names("saes", message.saes), top=top
    )
