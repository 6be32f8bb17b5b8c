"""JSON objects and table rows as documents.

Which column holds the document: `text_column` or `messages_column` where the source names one, otherwise the
first that is there of messages, conversations, conversation (a chat) and text (a text).

A chat is a list of turns, or a string that holds such a list as JSON. A turn is {role, content}, or
{from, value} as in ShareGPT's files, where human is read as user and gpt as assistant. Other keys of a turn
and other columns are not looked at; a null counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sae_train.corpus.documents import ChatDocument, CorpusError, Document, TextDocument
from sae_train.corpus.source import SourceConfig
from steerd.host.text import ChatMessage

CHAT_COLUMNS = ("messages", "conversations", "conversation")
TEXT_COLUMN = "text"

_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}

Record = Mapping[str, Any]  # Any: whatever JSON or a table may hold


def columns_read(source: SourceConfig) -> tuple[str, ...]:
    """The columns that may decide a document of this source, in the order in which they are looked for."""
    wanted = _document_columns(source)
    return (*wanted, source.source_column) if source.source_column else wanted


def parse_line(line: bytes, where: str) -> Record:
    """Read one line of a .jsonl file; raises CorpusError that begins with `where`."""
    try:
        value = json.loads(line.decode("utf-8"))
        if b"\\ud" in line.lower():  # an escaped half of a character is no text
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where}: not a JSON object: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: not a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise CorpusError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def parse_record(record: Record, source: SourceConfig, *, name: str, where: str) -> Document:
    """Turn a record into a document; `name` is the source of one that names none. Raises CorpusError."""
    origin = record.get(source.source_column)
    origin = name if origin is None else _string(origin, source.source_column, where)
    column = _column(record, source, where)
    if column == source.text_column or (column == TEXT_COLUMN and not source.messages_column):
        return TextDocument(text=_string(record[column], column, where), source=origin, where=where)
    return ChatDocument(messages=_messages(record[column], column, where), source=origin, where=where)


def _document_columns(source: SourceConfig) -> tuple[str, ...]:
    chosen = source.messages_column or source.text_column
    return (chosen,) if chosen else (*CHAT_COLUMNS, TEXT_COLUMN)


def _column(record: Record, source: SourceConfig, where: str) -> str:
    wanted = _document_columns(source)
    for column in wanted:
        if record.get(column) is not None:
            return column
    found = [key for key, value in record.items() if value is not None]
    raise CorpusError(f"{where}: {_missing(wanted)} among the keys {sorted(found)}")


def _missing(wanted: tuple[str, ...]) -> str:
    return f"no {wanted[0]!r}" if len(wanted) == 1 else f"neither {' nor '.join(map(repr, wanted))}"


def _messages(value: Any, column: str, where: str) -> tuple[ChatMessage, ...]:  # Any: as in Record
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where}: {column!r} is a string that holds no JSON list: {error}") from error
    if not isinstance(value, list) or not value:
        raise CorpusError(f"{where}: {column!r} must be a list of at least one message")
    return tuple(_message(turn, f"{column}[{index}]", where) for index, turn in enumerate(value))


def _message(turn: Any, place: str, where: str) -> ChatMessage:  # Any: as in Record
    if not isinstance(turn, dict):
        raise CorpusError(f"{where}: {place} must be an object with role and content, or from and value")
    if "role" in turn or "from" not in turn:
        role = _string(turn.get("role"), f"{place}.role", where)
        return ChatMessage(role=role, content=_string(turn.get("content"), f"{place}.content", where))
    role = _string(turn["from"], f"{place}.from", where)
    content = _string(turn.get("value"), f"{place}.value", where)
    return ChatMessage(role=_SHAREGPT_ROLES.get(role, role), content=content)


def _string(value: Any, field: str, where: str) -> str:  # Any: as in Record
    if not isinstance(value, str):
        raise CorpusError(f"{where}: {field} must be a string, found {type(value).__name__}")
    return value
