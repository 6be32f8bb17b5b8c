from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import zstandard

from sae_train.corpus.documents import (
    ChatDocument,
    CorpusError,
    TextDocument,
    is_held_out,
    read_documents,
    shuffled,
)
from steerd.host.text import ChatMessage

CHAT = {
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
    "source": "talk",
}


def test_reads_texts_and_chats_from_plain_and_packed_lines(tmp_path: Path) -> None:
    content = json.dumps({"text": "naïve"}) + "\n\n" + json.dumps(CHAT) + "\n"
    (tmp_path / "plain.jsonl").write_text(content)
    (tmp_path / "packed.jsonl.zst").write_bytes(zstandard.compress(content.encode()))

    plain = list(read_documents(tmp_path / "plain.jsonl"))
    packed = list(read_documents(tmp_path / "packed.jsonl.zst"))

    chat = ChatDocument((ChatMessage("user", "hi"), ChatMessage("assistant", "yo")), source="talk")
    assert plain == [TextDocument("naïve", source="plain"), chat]
    assert packed == [TextDocument("naïve", source="packed"), chat]


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text("one\ntwo\n")

    assert list(read_documents(tmp_path / "novel.txt")) == [TextDocument("one\ntwo\n", source="novel")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ("[]", "expected a JSON object, found list"),
        ('{"body": "x"}', "neither 'text' nor 'messages' among the keys ['body']"),
        ('{"text": 3}', "text must be a string, found int"),
        ('{"text": "x", "source": 3}', "source must be a string"),
        ('{"messages": []}', "at least one message"),
        ('{"messages": ["x"]}', "messages[0] must be an object"),
        ('{"messages": [{"role": "user"}]}', "messages[0].content must be a string, found NoneType"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")

    with pytest.raises(CorpusError) as caught:
        list(read_documents(path))

    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert message in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.zst").write_bytes(b"not zstandard")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")

    for name in ("cut.jsonl.zst", "latin.txt", "absent.jsonl", "table.csv"):
        with pytest.raises(CorpusError, match=name):
            list(read_documents(tmp_path / name))


def test_a_packed_file_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    whole = zstandard.compress("".join(f'{{"text": "{i}"}}\n' for i in range(50_000)).encode())
    (tmp_path / "cut.jsonl.zst").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(CorpusError, match="cut"):
        list(read_documents(tmp_path / "cut.jsonl.zst"))


@pytest.mark.parametrize("window", [1, 7, 1000])
def test_shuffling_keeps_every_document_and_follows_the_seed(window: int) -> None:
    documents = [TextDocument(str(i), source="s") for i in range(100)]

    first = list(shuffled(documents, torch.Generator().manual_seed(1), window))
    again = list(shuffled(documents, torch.Generator().manual_seed(1), window))

    assert first == again
    assert sorted(first, key=lambda d: int(d.text)) == documents
    assert (first == documents) == (window == 1)


def test_held_out_documents_are_the_stated_share_and_the_same_each_time() -> None:
    documents = [TextDocument(str(i), source="s") for i in range(2000)]

    chosen = [d for d in documents if is_held_out(d, share=0.1, seed=0)]

    assert 140 < len(chosen) < 260
    assert chosen == [d for d in documents if is_held_out(d, share=0.1, seed=0)]
    assert chosen != [d for d in documents if is_held_out(d, share=0.1, seed=1)]
