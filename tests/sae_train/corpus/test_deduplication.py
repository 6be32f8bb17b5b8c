from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sae_train.__main__ import main
from sae_train.corpus import deduplication
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.deduplication import count_overlaps, deduplicate, index_documents
from sae_train.corpus.document_files import write_documents
from sae_train.corpus.documents import CorpusError, Document, TextDocument
from sae_train.corpus.gram_index import GramIndex
from sae_train.corpus.reading import read_documents
from sae_train.corpus.source import SourceConfig
from steerd.errors import ConfigError
from tests.sae_train.corpus.test_word_grams import plain_grams, random_documents


def plain_deduplication(documents: list[Document], length: int) -> list[Document]:
    """The rule with a set of tuples, a document at a time."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for document in documents:
        grams = plain_grams(document, length)
        if seen.isdisjoint(grams):
            seen.update(grams)
            kept.append(document)
    return kept


def read(path: Path) -> list[Document]:
    return list(read_documents(SourceConfig(path=str(path), mode="block"), CorpusCounts()))


def write(path: Path, documents: list[Document]) -> Path:
    write_documents(path, documents)
    return path


@pytest.mark.parametrize("length", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("group_size", [1, 7, 1000])
def test_it_keeps_what_a_set_of_tuples_keeps(length: int, group_size: int) -> None:
    """Groups of one ask the table only, one whole group looks within the group only, others do both."""
    documents = random_documents(seed=length, count=1000)
    index = GramIndex(length)

    kept = []
    for start in range(0, len(documents), group_size):
        group = documents[start : start + group_size]
        kept += [d for d, is_kept in zip(group, index.admit(group), strict=True) if is_kept]

    expected = plain_deduplication(documents, length)
    assert kept == expected
    assert 0 < len(expected) < len(documents)


def test_documents_like_real_ones_go_through_files(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = [f"word{i}" for i in range(5000)]
    pages = [" ".join(draw.choices(words, k=draw.randrange(5, 200))) for _ in range(600)]
    for number in range(0, 600, 7):  # a passage of 19 words or of 20 from another page
        source = pages[draw.randrange(600)].split()
        pages[number] += " ".join(["", *source[: 19 + number % 2]])
    documents: list[Document] = [TextDocument(page, f"s{i % 2}") for i, page in enumerate(pages)]
    path = write(tmp_path / "in.jsonl", documents)

    found = deduplicate([str(path)], tmp_path / "out.jsonl.zst").as_json()

    expected = plain_deduplication(documents, 20)
    assert read(tmp_path / "out.jsonl.zst") == expected
    assert found["documents"] == 600
    assert found["kept"] == len(expected) == sum(fate["kept"] for fate in found["sources"].values())
    assert found["copies"] == 600 - len(expected) > 20
    assert found["grams"] == len({gram for d in expected for gram in plain_grams(d, 20)})
    assert deduplicate([str(tmp_path / "out.jsonl.zst")], None).as_json()["copies"] == 0


def test_what_is_in_other_files_is_dropped_and_counted_apart(tmp_path: Path) -> None:
    training = random_documents(seed=1, count=300, words=[f"w{i}" for i in range(40)])
    held_out = random_documents(seed=2, count=60, words=[f"w{i}" for i in range(40)])
    train_file, held_out_file = write(tmp_path / "a.jsonl", training), write(tmp_path / "b.jsonl", held_out)

    found = deduplicate([str(train_file)], tmp_path / "c.jsonl", length=3, against=[str(held_out_file)])

    forbidden = {gram for document in held_out for gram in plain_grams(document, 3)}
    allowed = [document for document in training if forbidden.isdisjoint(plain_grams(document, 3))]
    expected = plain_deduplication(allowed, 3)
    assert read(tmp_path / "c.jsonl") == expected
    assert found.as_json()["against"] == len(training) - len(allowed) > 0
    assert found.as_json()["copies"] == len(allowed) - len(expected) > 0
    index = index_documents(held_out, 3)
    assert count_overlaps(training, index) == len(training) - len(allowed)
    assert count_overlaps(read(tmp_path / "c.jsonl"), index) == 0


def test_small_groups_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "in.jsonl", random_documents(seed=3, count=500))
    in_one_group = deduplicate([str(path)], tmp_path / "one.jsonl", length=4)

    monkeypatch.setattr(deduplication, "_GROUP_CHARACTERS", 50)
    in_many = deduplicate([str(path)], tmp_path / "many.jsonl", length=4)

    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "many.jsonl").read_bytes()
    assert in_one_group.as_json() == in_many.as_json()


def test_the_command_prints_what_became_of_each_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [TextDocument(text, "x") for text in ("a b c d", "q a b c", "s t u", "e f g")]
    lines, more = write(tmp_path / "in.jsonl", texts), tmp_path / "more.txt"
    more.write_text("x x x s t u")
    against = write(tmp_path / "held.jsonl", [TextDocument("z e f g", "held")])
    with lines.open("a") as file:
        file.write("no document\n")
    output = tmp_path / "out.jsonl"
    options = ["--ngram", "3", "--against", str(against), "--output", str(output), "--on-bad-line", "skip"]

    status = main(["dedup", str(lines), str(more), *options])

    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert status == 0
    assert printed == {
        "documents": 5,
        "kept": 2,
        "copies": 2,
        "against": 1,
        "skipped": {"in": 1},
        "grams": 3,
        "gram_table_bytes": printed["gram_table_bytes"],
        "sources": {
            "more": {"kept": 0, "copies": 1, "against": 0},
            "x": {"kept": 2, "copies": 1, "against": 1},
        },
    }
    assert read(output) == [texts[0], texts[2]]


def test_a_failed_pass_leaves_no_output(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", [TextDocument(f"text {i}", "x") for i in range(10)])
    with path.open("a") as file:
        file.write("{")
    output = tmp_path / "out.jsonl.zst"
    output.write_bytes(zstandard.compress(b"as it was"))

    with pytest.raises(CorpusError, match="line 11: not a JSON object"):
        deduplicate([str(path)], output)

    assert zstandard.decompress(output.read_bytes()) == b"as it was"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.zst"]


def test_wrong_wishes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ngram: must be at least 1, found 0"):
        deduplicate([], None, length=0)
    with pytest.raises(CorpusError, match=r"out\.csv: the name of the output must end in"):
        deduplicate([], tmp_path / "out.csv")
