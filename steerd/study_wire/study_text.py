"""A text that a client has studied, and its message."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from steerd.client_messages import ChatTurn
from steerd.engine.study import Progress
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import generation_service_pb2


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyText:
    """A text, given as exactly one of `prompt`, `chat` and `token_ids`."""

    prompt: str | None = None
    chat: tuple[ChatTurn, ...] = ()
    token_ids: tuple[int, ...] = ()


def text_messages(texts: Iterable[StudyText]) -> list[pb.Text]:
    """The messages of texts; the server judges whether they make sense."""
    return [_text_message(text) for text in texts]


def continuation_message(continuation: str | tuple[int, ...]) -> generation_service_pb2.Continuation:
    """The message of what follows a text: text, or token ids."""
    if isinstance(continuation, str):
        return generation_service_pb2.Continuation(text=continuation)
    token_ids = generation_service_pb2.TokenIds(ids=continuation)
    return generation_service_pb2.Continuation(token_ids=token_ids)


def progress_message(progress: Progress) -> pb.StudyProgress:
    """How far a study is."""
    return pb.StudyProgress(done=progress.done, total=progress.total, unit=progress.unit)


def progress_of(message: pb.StudyProgress) -> Progress:
    """How far a study is, as a message tells it."""
    return Progress(message.done, message.total, message.unit)


def _text_message(text: StudyText) -> pb.Text:
    message = pb.Text()
    if text.prompt is not None:
        message.prompt = text.prompt
    if text.chat:
        turns = (
            generation_service_pb2.ChatMessage(role=turn.role, content=turn.content) for turn in text.chat
        )
        message.chat.messages.extend(turns)
    if text.token_ids:
        message.token_ids.ids.extend(text.token_ids)
    return message
