"""A judge behind an OpenAI-compatible HTTP endpoint: `POST BASE/chat/completions`."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sae_train.labels.judge import JudgeError, Question
from sae_train.labels.prompts import list_question, read_list
from steerd.host.text import ChatMessage

_MOST_BYTES = 1 << 20  # of an answer
_MOST_ANSWER_TOKENS = 512
_TEXTS_AT_ONCE = 5  # as in arXiv 2410.13928: more are harder, and say more about each other
_LONGEST_WAIT = 60.0  # seconds between two tries
_READ_AT_ONCE = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Where it is and how patiently it is asked.

    `url` ends before /chat/completions. A try waits at most `timeout_seconds` for something to come, and for
    nothing more when its answer has been coming for as long; what failed for a while (no
    connection, a timeout, 408, 409, 429, 5xx) is tried again up to `retries` times, each time after twice as
    long, or after what the server asks for.
    """

    url: str
    model: str
    key: str = ""
    timeout_seconds: float = 60.0
    retries: int = 4
    first_wait_seconds: float = 1.0
    parallel: int = 4


class _Retryable(Exception):
    """A failure that may pass; `wait_seconds` is what the server asks for."""

    def __init__(self, message: str, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key goes nowhere but where the user sent it."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


class EndpointJudge:
    """Asks about five texts at a time. May be used from several threads."""

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wait` lets some seconds pass between two tries; `clock` counts those of a try."""
        self._settings = settings
        self._wait = wait
        self._clock = clock
        self._opener = urllib.request.build_opener(_NoRedirects)
        self.name = settings.model
        self.parallel = settings.parallel

    def applies(self, question: Question) -> list[bool | None]:
        """Ask in groups; an answer that is no list of the right length is asked for once more."""
        found: list[bool | None] = []
        for start in range(0, len(question.texts), _TEXTS_AT_ONCE):
            texts = question.texts[start : start + _TEXTS_AT_ONCE]
            found += self._told(Question(question.task, question.label, texts)) or [None] * len(texts)
        return found

    def _told(self, question: Question) -> list[bool] | None:
        messages, count = list_question(question), len(question.texts)
        return read_list(self.answer(messages), count) or read_list(self.answer(messages), count)

    def answer(self, messages: Sequence[ChatMessage]) -> str:
        """Return what the model says, at temperature 0; raises JudgeError."""
        body = {
            "model": self._settings.model,
            "messages": [asdict(message) for message in messages],
            "temperature": 0,
            "max_tokens": _MOST_ANSWER_TOKENS,
        }
        wait = self._settings.first_wait_seconds
        for tries_left in range(self._settings.retries, -1, -1):
            try:
                return self._asked(json.dumps(body).encode())
            except _Retryable as failure:
                if not tries_left:
                    raise JudgeError(f"{self._settings.url}: {failure}") from failure
                self._wait(min(failure.wait_seconds or wait, _LONGEST_WAIT))
                wait *= 2
        raise AssertionError("the last try has returned or raised")

    def _asked(self, body: bytes) -> str:
        """One try."""
        settings = self._settings
        headers = {"Content-Type": "application/json"}
        if settings.key:
            headers["Authorization"] = f"Bearer {settings.key}"
        request = urllib.request.Request(
            f"{settings.url.rstrip('/')}/chat/completions", data=body, headers=headers, method="POST"
        )
        deadline = self._clock() + settings.timeout_seconds
        try:
            with self._opener.open(request, timeout=settings.timeout_seconds) as reply:
                return _text_of(self._read(reply, deadline))
        except urllib.error.HTTPError as error:
            with error:
                raise self._failure(error, deadline) from error
        except (OSError, http.client.HTTPException) as error:  # timeouts and broken connections among them
            raise _Retryable(f"no answer: {error}") from error

    def _read(self, reply: Any, deadline: float) -> bytes:
        """The body; a server that sends it drop by drop is not waited for, nor is an endless one."""
        parts: list[bytes] = []
        while part := reply.read1(_READ_AT_ONCE):
            parts.append(part)
            if sum(map(len, parts)) > _MOST_BYTES:
                raise _Retryable(f"an answer of more than {_MOST_BYTES} bytes")
            if self._clock() > deadline:
                raise _Retryable("no answer in time")
        return b"".join(parts)

    def _failure(self, error: urllib.error.HTTPError, deadline: float) -> Exception:
        try:
            said = self._read(error, deadline)[:200].decode(errors="replace")
        except (OSError, http.client.HTTPException, _Retryable):
            said = "nothing more"
        message = f"answered {error.code} {error.reason}: {said}"
        if error.code in (408, 409, 429) or error.code >= 500:
            return _Retryable(message, _seconds(error.headers.get("Retry-After")))
        return JudgeError(message)


def _text_of(body: bytes) -> str:
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise _Retryable(f"an answer that is no chat completion: {body[:200]!r}") from error
    if text is None:  # a model that has nothing to say
        return ""
    if not isinstance(text, str):
        raise _Retryable(f"an answer whose content is no text: {body[:200]!r}")
    return text


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after or ""))
    except ValueError:  # absent, or a date
        return None
