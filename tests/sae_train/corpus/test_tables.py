from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import ChatDocument, CorpusError, Document, TextDocument
from sae_train.corpus.reading import read_documents
from sae_train.corpus.source import SourceConfig
from steerd.host.text import ChatMessage
from tests.sae_train.corpus.local_hub import local_hub


def read(path: str, **settings: Any) -> list[Document]:
    return list(read_documents(SourceConfig(path=path, mode="block", **settings), CorpusCounts()))


def write_parquet(path: Path, columns: dict[str, list[Any]], **options: Any) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)


def test_parquet_rows_of_all_row_groups_are_documents_in_order(tmp_path: Path) -> None:
    path = tmp_path / "book.parquet"
    texts = [f"page {i}" for i in range(1000)]
    write_parquet(path, {"text": texts, "source": [None, "s"] * 500, "n": texts}, row_group_size=300)

    documents = read(str(path))

    assert documents == [TextDocument(text, ("book", "s")[i % 2]) for i, text in enumerate(texts)]
    assert documents[700].where == f"{path}, row 701"


def test_parquet_conversations_are_read_from_a_named_column(tmp_path: Path) -> None:
    path = tmp_path / "talk.parquet"
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
    write_parquet(path, {"dialogue": [turns], "text": ["other"], "origin": ["there"]})

    chat = ChatDocument((ChatMessage("user", "hi"), ChatMessage("assistant", "yo")), source="there")
    assert read(str(path), messages_column="dialogue", source_column="origin") == [chat]


def test_a_bad_parquet_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, {"text": ["fine", None, "fine"]})

    with pytest.raises(CorpusError, match=r"x\.parquet, row 2: neither"):
        read(str(path))
    assert len(read(str(path), on_bad_line="skip")) == 2


def test_parquet_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    whole, cut, damaged = (tmp_path / f"{name}.parquet" for name in ("whole", "cut", "damaged"))
    write_parquet(whole, {"text": [f"{i}" * 20 for i in range(20_000)], "source": ["s"] * 20_000})
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    damaged.write_bytes(content[:1000] + bytes(len(content) // 2) + content[1000 + len(content) // 2 :])

    with pytest.raises(CorpusError, match=r"cut\.parquet, after row 0: damaged Parquet data"):
        read(str(cut))
    with pytest.raises(CorpusError, match=r"damaged\.parquet, after row \d+: "):
        read(str(damaged))
    with pytest.raises(CorpusError, match=r"absent\.parquet, after row 0: cannot be read"):
        read(str(tmp_path / "absent.parquet"))
    with pytest.raises(CorpusError, match=r"none of the columns \['body'\]; it has \['source', 'text'\]"):
        read(str(whole), text_column="body")


@pytest.mark.parametrize(
    ("path", "package"), [("x.parquet", "pyarrow.parquet"), ("hf:owner/name", "datasets")]
)
def test_without_the_optional_packages_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, path: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(CorpusError, match=rf"{path}: needs the package .*pip install 'steerd\[datasets\]'"):
        read(path)


# The hub's address is read when its client is imported, so it takes a process of its own.
READ_FROM_HUB = """
import json, sys
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import CorpusError
from sae_train.corpus.reading import read_documents
from sae_train.corpus.source import SourceConfig

for settings in json.loads(sys.argv[1]):
    texts, error = [], None
    try:
        for document in read_documents(SourceConfig(mode="block", **settings), CorpusCounts()):
            texts.append([document.source, document.text])
    except CorpusError as raised:
        error = str(raised)
    print(json.dumps({"texts": texts, "error": error}))
"""


def test_data_sets_are_streamed_from_the_hub_and_a_vanished_one_is_named(tmp_path: Path) -> None:
    lines = {name: f'{{"text": "{name}1"}}\n{{"text": "{name}2"}}\n'.encode() for name in "ab"}
    card = b"---\nconfigs:\n- config_name: odd\n  data_files:\n  - {split: test, path: data/b.jsonl}\n---\n"
    data_sets = {
        "me/talk": {"data/a.jsonl": lines["a"], "data/b.jsonl": lines["b"]},
        "me/odd": {"README.md": card, "data/a.jsonl": lines["a"], "data/b.jsonl": lines["b"]},
        "me/going": {"data/a.jsonl": lines["a"], "data/b.jsonl": None},
    }
    wishes = [
        {"path": "hf:me/talk", "hub_revision": "main"},
        {"path": "hf:me/odd", "hub_config": "odd", "hub_split": "test"},
        {"path": "hf:me/odd", "hub_config": "odd"},
        {"path": "hf:me/going"},
        {"path": "hf:me/gone"},
    ]

    with local_hub(data_sets) as address:
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", READ_FROM_HUB, json.dumps(wishes)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    talk, odd, split, going, gone = map(json.loads, done.stdout.splitlines())

    assert talk == {"texts": [["talk", text] for text in ("a1", "a2", "b1", "b2")], "error": None}
    assert odd == {"texts": [["odd", "b1"], ["odd", "b2"]], "error": None}
    assert split["error"].startswith("hf:me/odd: cannot be opened: ValueError: Bad split: train")
    assert going["texts"] == [["going", "a1"], ["going", "a2"]]
    assert going["error"].startswith("hf:me/going, after document 2: the stream broke off: ")
    assert gone["error"].startswith("hf:me/gone: cannot be opened: DatasetNotFoundError: ")
