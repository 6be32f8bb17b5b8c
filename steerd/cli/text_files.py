"""Files of texts: `.jsonl` with a text or a chat a line, anything else with a text a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steerd.client_messages import ChatTurn
from steerd.errors import SteerdError
from steerd.study_wire.study_text import StudyText


class TextFileError(SteerdError):
    """A file of texts that cannot be read; the message says which and what is wrong."""

    reason = "BAD_TEXT_FILE"


def read_texts(path: Path) -> tuple[StudyText, ...]:
    """The texts of a file in its order, at least one; raises TextFileError.

    Blank lines are left out. A line of a `.jsonl` file is an object with `text`, or with `messages`, each of
    `role` and `content`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TextFileError(f"{path}: cannot be read: {error}") from error
    read = _from_json if path.suffix == ".jsonl" else _from_line
    texts = [read(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise TextFileError(f"{path}: has no texts")
    return tuple(texts)


def _from_line(line: str, _where: str) -> StudyText:
    return StudyText(prompt=line)


def _from_json(line: str, where: str) -> StudyText:
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise TextFileError(f"{where}: is not JSON: {error}") from error
    match record:
        case {"text": str(text)}:
            return StudyText(prompt=text)
        case {"messages": [*turns]} if turns:
            return StudyText(chat=tuple(_turn(turn, where) for turn in turns))
        case _:
            raise TextFileError(f"{where}: expected an object with text, or with messages")


def _turn(turn: Any, where: str) -> ChatTurn:
    match turn:
        case {"role": str(role), "content": str(content)}:
            return ChatTurn(role, content)
        case _:
            raise TextFileError(f"{where}: a message is not an object with role and content, both text")
