from __future__ import annotations

from pathlib import Path

import pytest

from steerd.cli.text_files import TextFileError, read_texts
from steerd.client_messages import ChatTurn
from steerd.study_wire.study_text import StudyText


def test_lines_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text('one\n  \n{"text": 2}\n', encoding="utf-8")

    assert read_texts(path) == (StudyText(prompt="one"), StudyText(prompt='{"text": 2}'))


def test_json_lines_are_texts_and_chats(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(
        '{"text": "one\\ntwo", "source": "x"}\n\n{"messages": [{"role": "user", "content": "Hi"}]}',
        encoding="utf-8",
    )

    chat = StudyText(chat=(ChatTurn("user", "Hi"),))
    assert read_texts(path) == (StudyText(prompt="one\ntwo"), chat)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"text": "a"}\n{"text": ', r":2: is not JSON"),
        ('{"text": 3}', r":1: expected an object with text, or with messages"),
        ('{"messages": []}', r":1: expected an object"),
        ('["a"]', r":1: expected an object"),
        ('{"messages": [{"role": "user"}]}', r":1: a message is not an object with role and content"),
        ("\n", r"has no texts"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(TextFileError, match=problem) as found:
        read_texts(path)

    assert str(path) in str(found.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TextFileError, match="cannot be read"):
        read_texts(tmp_path / "none.txt")
