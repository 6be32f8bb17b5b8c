"""Encode: the call to its message, and the server's answers to theirs and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from steerd.engine.study import Progress
from steerd.intervention_wire import feature_message
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.steering.intervention import FeatureRef
from steerd.studies.encoded_tokens import EncodedTokens, EncodeSummary, SaeCodes
from steerd.study_wire.study_text import StudyText, progress_of, text_messages

# A message of this many activations takes about half a megabyte; the transport's limit is 4 MiB.
_MAX_VALUES = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeCall:
    """One Encode call. `top_features` a token, or `full_codes`, of the SAEs named, or of all."""

    texts: tuple[StudyText, ...]
    watch: tuple[FeatureRef, ...] = ()
    top_features: int = 0
    full_codes: bool = False
    saes: tuple[str, ...] = ()
    request_id: str = ""
    max_seconds: float = 0.0


def encode_request(call: EncodeCall) -> pb.EncodeRequest:
    """The message of a call."""
    return pb.EncodeRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        texts=text_messages(call.texts),
        watch=[feature_message(feature) for feature in call.watch],
        top_k=call.top_features,
        full_codes=call.full_codes,
        saes=call.saes,
    )


def tokens_responses(part: EncodedTokens) -> Iterator[pb.EncodeResponse]:
    """The messages of some tokens, none of them too large."""
    entries = np.sum([code.counts for code in part.codes], axis=0)  # [tokens]
    pieces = np.cumsum(entries) // _MAX_VALUES  # a token's entries stay together
    bounds = [0, *(np.flatnonzero(np.diff(pieces)) + 1).tolist(), len(part.token_ids)]
    for first, end in pairwise(bounds):
        message = pb.EncodedTokens(
            text=part.text,
            first_position=part.first_position + first,
            token_ids=part.token_ids[first:end],
            token_texts=part.token_texts[first:end],
            codes=[_codes_message(code.part(first, end)) for code in part.codes],
        )
        yield pb.EncodeResponse(tokens=message)


def summary_message(summary: EncodeSummary) -> pb.EncodeResult:
    """The message of a result."""
    return pb.EncodeResult(complete=summary.complete, texts=summary.texts, tokens=summary.tokens)


def encode_event(message: pb.EncodeResponse) -> Progress | EncodedTokens | EncodeSummary:
    """One message of the stream."""
    match message.WhichOneof("event"):
        case "progress":
            return progress_of(message.progress)
        case "tokens":
            return _tokens_of(message.tokens)
        case _:
            return EncodeSummary(message.result.complete, message.result.texts, message.result.tokens)


def _codes_message(codes: SaeCodes) -> pb.SaeCodes:
    return pb.SaeCodes(
        sae=codes.sae,
        counts=codes.counts.tolist(),
        features=codes.features.tolist(),
        values=codes.values.tolist(),
    )


def _tokens_of(message: pb.EncodedTokens) -> EncodedTokens:
    return EncodedTokens(
        text=message.text,
        first_position=message.first_position,
        token_ids=tuple(message.token_ids),
        token_texts=tuple(message.token_texts),
        codes=tuple(
            SaeCodes(
                sae=codes.sae,
                counts=np.array(codes.counts, dtype=np.int64),
                features=np.array(codes.features, dtype=np.int64),
                values=np.array(codes.values, dtype=np.float32),
            )
            for codes in message.codes
        ),
    )
