"""Tokens that a request names by their text or their id."""

from __future__ import annotations

from steerd.host.text import encode_continuation
from steerd.host.token_texts import TokenTexts
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.parse_study import StudyParser

_MOST_CHARACTERS = 256  # no token is longer
_SHOWN_TOKENS = 8


def chosen_token(message: pb.TokenChoice, field: str, study: StudyParser) -> int | None:
    """The id of a token; None when a violation was recorded."""
    violations, host = study.violations, study.host
    match message.WhichOneof("token"):
        case "id":
            bound = f"below the vocabulary size, {host.vocab_size}"
            fits = violations.must(message.id < host.vocab_size, f"{field}.id", bound, message.id)
            return message.id if fits else None
        case "text":
            return _from_text(message.text, f"{field}.text", study)
        case _:
            violations.add(f"{field}.token", "one of text and id is required")
            return None


def _from_text(text: str, field: str, study: StudyParser) -> int | None:
    violations, tokenizer = study.violations, study.host.tokenizer
    if not (
        violations.must_not_be_empty(field, text)
        and violations.must_be_text(field, text)
        and violations.must_be_at_most(field, len(text), _MOST_CHARACTERS, "characters")
    ):
        return None
    ids = encode_continuation(tokenizer, text)
    if len(ids) == 1:
        return ids[0]
    parts = ", ".join(map(repr, TokenTexts(tokenizer).run(ids)[:_SHOWN_TOKENS]))
    violations.add(field, f"must be one token of the host; {text!r} is {len(ids)}: {parts}")
    return None
