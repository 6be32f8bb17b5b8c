"""Events -> messages, with the byte tokenizer: a token is a byte."""

from __future__ import annotations

from collections.abc import Sequence

from steerd.engine.events import StreamEvent
from steerd.engine.request import FinishReason, GenerationRequest, SamplingParams
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.reply import ReplyWriter
from tests.server.scripted import finished, token
from tests.tiny_hosts import byte_tokenizer

GREEDY = SamplingParams(max_new_tokens=100, temperature=0.0, top_p=1.0, top_k=0, seed=1)


def writer(stop: Sequence[str] = ()) -> ReplyWriter:
    request = GenerationRequest(id="r", prompt_ids=(97,), sampling=GREEDY)
    return ReplyWriter(request, tokenizer=byte_tokenizer(), model="tiny", stop=stop)


def tokens(text: str | bytes) -> list[StreamEvent]:
    data = text.encode() if isinstance(text, str) else text
    return [token(position, byte) for position, byte in enumerate(data)]


def deltas(replies: list[pb.GenerateResponse]) -> list[pb.Delta]:
    return [reply.delta for reply in replies if reply.HasField("delta")]


def test_a_character_comes_with_its_last_byte() -> None:
    replies = writer()

    pieces = [list(replies.write([event])) for event in tokens("a\N{EURO SIGN}b")]

    assert ["".join(delta.text for delta in deltas(piece)) for piece in pieces] == [
        "a",
        "",
        "",
        "\N{EURO SIGN}",
        "b",
    ]


def test_an_unfinished_character_comes_at_the_end_without_a_token() -> None:
    replies = writer()
    list(replies.write(tokens(b"a\xe2")))

    (last, completed) = replies.write([finished()])

    assert last.delta.text == "\N{REPLACEMENT CHARACTER}"
    assert not last.delta.token_ids
    assert completed.HasField("completed")


def test_text_that_looked_like_a_stop_string_comes_at_the_end() -> None:
    replies = writer(stop=["END"])
    first = list(replies.write(tokens("a EN")))

    last = list(replies.write([finished()]))

    assert [delta.text for delta in deltas(first + last)] == ["a ", "EN"]
    assert list(deltas(first)[0].token_texts) == ["a", " ", "", ""]


def test_a_stop_string_is_cut_and_its_tokens_are_told() -> None:
    replies = writer(stop=["END"])

    messages = list(replies.write([*tokens("a END"), finished(FinishReason.STOP_SEQUENCE)]))

    (delta,) = deltas(messages)
    assert delta.text == "a "
    assert bytes(delta.token_ids) == b"a END"
    assert messages[-1].completed.finish_reason == pb.FINISH_REASON_STOP_SEQUENCE


def test_a_special_token_has_no_text() -> None:
    replies = writer()

    messages = list(replies.write([*tokens("a"), token(1, 258), finished(FinishReason.STOP)]))

    (delta,) = deltas(messages)
    assert list(delta.token_texts) == ["a", ""]
    assert replies.finished is not None


def test_nothing_ready_is_no_message() -> None:
    assert list(writer().write([])) == []
