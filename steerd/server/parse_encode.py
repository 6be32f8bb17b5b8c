"""An EncodeRequest -> EncodeWish."""

from __future__ import annotations

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.parse_study import StudyParser
from steerd.studies.encoded_tokens import EncodeWish


def parse_encode(message: pb.EncodeRequest, parser: StudyParser) -> EncodeWish:
    """What is to be encoded, recording every broken rule with the parser."""
    violations, limits = parser.violations, parser.config.limits
    parser.common(message)
    violations.must_be_between("top_k", message.top_k, 0, limits.max_top_k)
    wants_some = bool(message.watch) or message.top_k > 0
    if message.full_codes:
        violations.must(not wants_some, "full_codes", "without watch and top_k", True)
    elif not wants_some:
        violations.add("watch", "one of watch, top_k and full_codes is required")
    if message.saes and not (message.top_k or message.full_codes):
        violations.add("saes", "needs top_k or full_codes")
    return EncodeWish(
        texts=parser.texts("texts", message.texts),
        watch=parser.features("watch", message.watch, most=limits.max_watched_features),
        top_k=message.top_k,
        full_codes=message.full_codes,
        saes=parser.sae_names("saes", message.saes) if message.top_k or message.full_codes else (),
    )
