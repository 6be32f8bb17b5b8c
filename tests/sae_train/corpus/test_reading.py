from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import ChatDocument, CorpusError, Document, TextDocument
from sae_train.corpus.reading import read_documents
from sae_train.corpus.source import SourceConfig
from steerd.host.text import ChatMessage

CHAT = {
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
    "source": "talk",
}


def read(path: Path, counts: CorpusCounts | None = None, **settings: Any) -> list[Document]:
    source = SourceConfig(path=str(path), mode="block", **settings)
    return list(read_documents(source, CorpusCounts() if counts is None else counts))


def test_reads_texts_and_chats_from_plain_and_packed_lines(tmp_path: Path) -> None:
    content = json.dumps({"text": "naïve \U0001f600"}) + "\n\n" + json.dumps(CHAT) + "\n"
    (tmp_path / "plain.jsonl").write_text(content)
    (tmp_path / "packed.jsonl.zst").write_bytes(zstandard.compress(content.encode()))

    plain = read(tmp_path / "plain.jsonl")
    packed = read(tmp_path / "packed.jsonl.zst")

    chat = ChatDocument((ChatMessage("user", "hi"), ChatMessage("assistant", "yo")), source="talk")
    assert plain == [TextDocument("naïve \U0001f600", source="plain"), chat]
    assert packed == [TextDocument("naïve \U0001f600", source="packed"), chat]
    assert [document.where for document in plain] == [f"{tmp_path}/plain.jsonl, line {n}" for n in (1, 3)]


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_bytes(b"one\r\ntwo\n")

    assert read(tmp_path / "novel.txt") == [TextDocument("one\ntwo\n", source="novel")]


BAD_LINES = [
    (b"{", "not a JSON object"),
    (b"[]", "expected a JSON object, found list"),
    (b'{"text": ' + b"9" * 5000 + b"}", "not a JSON object: Exceeds the limit"),
    (b"[" * 100_000, "not a JSON object: maximum recursion depth"),
    (b'{"text": "\xe9t\xe9"}', "not UTF-8 text: invalid continuation byte at byte 10"),
    (b'{"text": "half \\uD83D"}', "not a JSON object: 'utf-8' codec can't encode"),
    (b'{"body": "x", "text": null}', "nor 'text' among the keys ['body']"),
    (b'{"text": 3}', "text must be a string, found int"),
    (b'{"text": "x", "source": 3}', "source must be a string"),
    (b'{"messages": []}', "'messages' must be a list of at least one message"),
    (b'{"messages": "hi"}', "'messages' is a string that holds no JSON list"),
    (b'{"messages": ["x"]}', "messages[0] must be an object"),
    (b'{"messages": [{"role": "user"}]}', "messages[0].content must be a string, found NoneType"),
    (b'{"messages": [{"content": "x"}]}', "messages[0].role must be a string, found NoneType"),
    (b'{"conversations": [{"from": "gpt"}]}', "conversations[0].value must be a string, found NoneType"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")

    with pytest.raises(CorpusError) as caught:
        read(path)

    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert message in str(caught.value)


def test_bad_lines_are_counted_where_the_source_says_so(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line, _ in BAD_LINES) + b'{"text": "fine"}\n')
    counts = CorpusCounts()

    documents = read(path, counts, on_bad_line="skip")

    assert documents == [TextDocument("fine", source="bad")]
    assert counts.of("bad").skipped == {"not a document": len(BAD_LINES)}
    assert counts.examples["not a document"].startswith(f"{path}, line 1: not a JSON object")


@pytest.mark.parametrize(
    ("record", "settings", "expected"),
    [
        (
            {"conversations": [["human", "a"], ["gpt", "b"], ["system", "c"]]},
            {},
            ["user", "assistant", "system"],
        ),
        ({"conversation": [["user", "a"], ["tool", "b"]]}, {}, ["user", "tool"]),
        ({"chat": [["user", "a"]], "messages": "nothing"}, {"messages_column": "chat"}, ["user"]),
        ({"text": [["user", "a"]]}, {"messages_column": "text"}, ["user"]),
    ],
)
def test_a_conversation_is_found_by_the_stated_rule(
    tmp_path: Path, record: dict[str, Any], settings: dict[str, str], expected: list[str]
) -> None:
    keys = ("from", "value") if "conversations" in record else ("role", "content")
    turns = {
        column: [dict(zip(keys, turn, strict=True)) for turn in value] if isinstance(value, list) else value
        for column, value in record.items()
    }
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(turns) + "\n")

    (document,) = read(path, **settings)

    assert isinstance(document, ChatDocument)
    assert [message.role for message in document.messages] == expected
    assert [message.content for message in document.messages] == ["a", "b", "c"][: len(expected)]


def test_a_conversation_may_be_a_string_that_holds_its_list(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(CHAT | {"messages": json.dumps(CHAT["messages"])}))
    (tmp_path / "y.jsonl").write_text(json.dumps(CHAT))

    assert read(tmp_path / "x.jsonl") == read(tmp_path / "y.jsonl")


def test_texts_and_sources_may_stand_in_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"body": "b", "text": "t", "from": "here", "source": 3}\n')

    chosen = read(path, text_column="body", source_column="from")
    unnamed = read(path, source_column="")

    assert chosen == [TextDocument("b", source="here")]
    assert unnamed == [TextDocument("t", source="x")]


def test_a_column_with_a_source_for_each_document_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": "t", "source": f"page {i}"}) + "\n" for i in range(1001)))

    with pytest.raises(CorpusError, match="line 1001: 'source' has more than 1000 different values"):
        read(path, on_bad_line="skip")

    assert len(read(path, source_column="")) == 1001


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.zst").write_bytes(b"not zstandard")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    (tmp_path / "folder.jsonl").mkdir()

    for name in ("cut.jsonl.zst", "latin.txt", "absent.jsonl", "table.csv", "folder.jsonl"):
        with pytest.raises(CorpusError, match=name):
            read(tmp_path / name, on_bad_line="skip")
