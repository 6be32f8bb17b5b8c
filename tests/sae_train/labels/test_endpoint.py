"""A judge over HTTP, against a real server that behaves well and badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sae_train.labels.endpoint import EndpointJudge, EndpointSettings
from sae_train.labels.judge import JudgeError, Question
from steerd.host.text import ChatMessage
from tests.sae_train.labels.chat_server import Reply, chat_reply, chat_server

HELLO = [ChatMessage("user", "Hello")]


def judge_at(url: str, waits: list[float], **settings: Any) -> EndpointJudge:
    return EndpointJudge(EndpointSettings(url=url, model="m", **settings), wait=waits.append)


def in_turn(*replies: Reply) -> Callable[[dict[str, Any]], Reply]:
    coming: Iterator[Reply] = iter(replies)
    return lambda _question: next(coming)


def test_a_question_goes_out_as_the_interface_has_it() -> None:
    with chat_server(in_turn(chat_reply("Good day"))) as server:
        said = judge_at(server.url, [], key="secret").answer([ChatMessage("system", "Be brief"), *HELLO])

    assert said == "Good day"
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    (question,) = server.asked
    assert question["model"] == "m"
    assert question["temperature"] == 0
    assert question["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hello"},
    ]


def test_without_a_key_none_is_sent() -> None:
    with chat_server(in_turn(chat_reply(None))) as server:
        assert judge_at(server.url, []).answer(HELLO) == ""

    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("bad", "waits"),
    [
        (Reply(b"slow down", 429), [1.0, 2.0]),
        (Reply(b"slow down", 429, {"Retry-After": "7"}), [7.0, 7.0]),
        (Reply(b"later", 503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}), [1.0, 2.0]),
        (Reply(b"later", 503, {"Retry-After": "86400"}), [60.0, 60.0]),
        (Reply(b"not json"), [1.0, 2.0]),
        (Reply(b"[]"), [1.0, 2.0]),
        (Reply(b'{"choices": []}'), [1.0, 2.0]),
        (Reply(b'{"choices": [{"message": {"content": [1]}}]}'), [1.0, 2.0]),
        (Reply(b"x" * (2 << 20)), [1.0, 2.0]),
    ],
)
def test_what_may_pass_is_tried_again_after_longer_and_longer_waits(bad: Reply, waits: list[float]) -> None:
    waited: list[float] = []
    with chat_server(in_turn(bad, bad, chat_reply("at last"))) as server:
        assert judge_at(server.url, waited).answer(HELLO) == "at last"

    assert waited == waits


def test_tries_are_bounded_and_the_last_failure_is_told() -> None:
    waited: list[float] = []
    with (
        chat_server(lambda _question: Reply(b"no room", 503)) as server,
        pytest.raises(JudgeError, match=r"/v1: answered 503 .*: no room"),
    ):
        judge_at(server.url, waited, retries=3).answer(HELLO)

    assert len(server.asked) == 4
    assert waited == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    with (
        chat_server(lambda _question: Reply(b"no such model", status)) as server,
        pytest.raises(JudgeError, match=f"answered {status} .*: no such model"),
    ):
        judge_at(server.url, []).answer(HELLO)

    assert len(server.asked) == 1


def test_a_redirect_is_a_refusal_and_the_key_is_not_sent_on() -> None:
    with chat_server(lambda _question: chat_reply("stolen")) as other:
        moved = Reply(status=302, headers={"Location": f"{other.url}/chat/completions"})
        with chat_server(in_turn(moved)) as server, pytest.raises(JudgeError, match="answered 302"):
            judge_at(server.url, [], key="secret").answer(HELLO)

    assert other.asked == []


@pytest.mark.parametrize("parts", [(b"", b"{}"), tuple(b'{"a": 1}'[i : i + 1] for i in range(8))])
def test_who_does_not_answer_in_time_is_not_waited_for(parts: tuple[bytes, ...]) -> None:
    with (
        chat_server(lambda _question: Reply(parts=parts)) as server,
        pytest.raises(JudgeError, match="no answer"),
    ):
        judge_at(server.url, [], retries=1, timeout_seconds=0.1).answer(HELLO)

    assert len(server.asked) == 2


class DropByDrop(threading.Event):
    """Lets a part go each time that a clock is asked, which is a second later every time."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._drops = threading.Semaphore(0)

    def clock(self) -> float:
        self.seconds += 1.0
        self._drops.release()
        return self.seconds

    def wait(self, timeout: float | None = None) -> bool:
        return self._drops.acquire(timeout=timeout)

    def set(self) -> None:
        self._drops.release(1000)


@pytest.mark.parametrize("seconds", [5.0, 500.0])
def test_an_answer_that_comes_drop_by_drop_must_end_in_time(seconds: float) -> None:
    """Of a hundred drops, one a second by the judge's clock."""
    whole = chat_reply("x" * 200).body
    drops = tuple(whole[first : first + 3] for first in range(0, len(whole), 3))
    drip = DropByDrop()
    with chat_server(lambda _question: Reply(parts=drops)) as server:
        server.release = drip
        settings = EndpointSettings(url=server.url, model="m", retries=0, timeout_seconds=seconds)
        judge = EndpointJudge(settings, clock=drip.clock)
        if seconds > len(drops):
            assert judge.answer(HELLO) == "x" * 200
        else:
            with pytest.raises(JudgeError, match="no answer in time"):
                judge.answer(HELLO)

    assert (drip.seconds < len(drops) / 2) == (seconds < len(drops))


def test_nobody_there_is_told() -> None:
    with chat_server(lambda _question: Reply()) as server:
        url = server.url

    with pytest.raises(JudgeError, match=r"no answer: .*refused"):
        judge_at(url, [], retries=0).answer(HELLO)


def test_texts_are_asked_about_five_at_a_time() -> None:
    def answer(question: dict[str, Any]) -> Reply:
        texts = question["messages"][1]["content"].splitlines()[2:]
        return chat_reply(f"Sure: {json.dumps([int('cat' in text) for text in texts])}")

    texts = [f"a {'cat' if number % 3 == 0 else 'dog'} {number}" for number in range(12)]
    with chat_server(answer) as server:
        told = judge_at(server.url, []).applies(Question("detection", "animals", texts))

    assert told == [number % 3 == 0 for number in range(12)]
    assert len(server.asked) == 3
    assert all("Description: animals" in asked["messages"][1]["content"] for asked in server.asked)


def test_an_unusable_answer_is_asked_for_once_more_and_then_none() -> None:
    replies = (chat_reply("I cannot say"), chat_reply("[1, 0]"), chat_reply("[1]"), chat_reply("[2, 1]"))
    with chat_server(in_turn(*replies)) as server:
        judge = judge_at(server.url, [])
        first = judge.applies(Question("fuzzing", "x", ["a", "b"]))
        second = judge.applies(Question("fuzzing", "x", ["a", "b"]))

    assert first == [True, False]
    assert second == [None, None]
