"""Calls and codes through protobuf and back."""

from __future__ import annotations

import numpy as np

from steerd.client_messages import ChatTurn
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.steering.intervention import FeatureRef
from steerd.studies.encoded_tokens import EncodedTokens, SaeCodes
from steerd.study_wire.encode import EncodeCall, encode_event, encode_request, tokens_responses
from steerd.study_wire.study_text import StudyText


def test_the_message_of_a_call() -> None:
    call = EncodeCall(
        texts=(StudyText(prompt="a"), StudyText(chat=(ChatTurn("user", "b"),)), StudyText(token_ids=(1, 2))),
        watch=(FeatureRef("late", 3),),
        top_features=4,
        saes=("early",),
        request_id="name",
        max_seconds=2.5,
    )

    message = encode_request(call)

    assert [text.WhichOneof("input") for text in message.texts] == ["prompt", "chat", "token_ids"]
    assert message.texts[1].chat.messages[0].content == "b"
    assert list(message.texts[2].token_ids.ids) == [1, 2]
    assert (message.watch[0].sae, message.watch[0].index) == ("late", 3)
    assert (message.top_k, message.full_codes, list(message.saes)) == (4, False, ["early"])
    assert (message.request_id, message.max_seconds) == ("name", 2.5)


def test_codes_are_cut_into_messages_that_are_not_too_large() -> None:
    generator = np.random.default_rng()
    counts = [generator.integers(0, 3000, 200) for _ in range(2)]
    codes = tuple(
        SaeCodes(
            sae=f"sae-{number}",
            counts=count,
            features=generator.integers(0, 1 << 20, count.sum()),
            values=generator.random(count.sum(), dtype=np.float32),
        )
        for number, count in enumerate(counts)
    )
    part = EncodedTokens(7, 10, tuple(range(200)), codes, tuple(map(str, range(200))))

    messages = [message.SerializeToString() for message in tokens_responses(part)]
    found = [encode_event(pb.EncodeResponse.FromString(message)) for message in messages]

    assert max(map(len, messages)) < 1 << 20
    parts = [piece for piece in found if isinstance(piece, EncodedTokens)]
    assert len(parts) == len(messages) > 5
    assert sum((piece.token_ids for piece in parts), ()) == part.token_ids
    assert sum((piece.token_texts for piece in parts), ()) == part.token_texts
    assert [piece.first_position for piece in parts] == [10 + piece.token_ids[0] for piece in parts]
    for number, whole in enumerate(codes):
        for field in ("counts", "features", "values"):
            pieces = [getattr(piece.codes[number], field) for piece in parts]
            np.testing.assert_array_equal(np.concatenate(pieces), getattr(whole, field))
