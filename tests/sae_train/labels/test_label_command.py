"""`sae-train labels` on a small SAE folder, asking a chat endpoint in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_train.__main__ import main
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.text import encode_prompt
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_label import LabelScore
from steerd.sae.feature_note import FeatureNote
from steerd.sae.sae_file import SaeBundle, SaeMetadata, load_sae, save_sae
from tests.sae_train.labels.chat_server import ChatServer, Reply, chat_reply, chat_server
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import random_sae

CONFIG = """
output = "{folder}/run"

[host]
name = "{folder}/host"

[[saes]]
hook_point = "blocks.1.hook_resid_post"
d_sae = 24
k = 4

[data]
cache = "{folder}/cache"
tokens = 100
held_out_tokens = 6000
held_out_share = 0.9
context = 64

[[data.sources]]
path = "{folder}/text.jsonl"
mode = "block"

[training]
tokens = 100

[evaluation]
statistics_tokens = 1000
cross_entropy_tokens = 500
"""
WRITTEN = "the letter e"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a host, a corpus and a configuration."""
    folder = tmp_path_factory.mktemp("labels")
    host = make_tiny_host("llama", max_position_embeddings=4096)
    host.model.save_pretrained(folder / "host")
    host.tokenizer.save_pretrained(folder / "host")
    words = ["red", "green", "blue", "seven", "eleven", "house", "river"]
    lines = [f"{words[i % 7]} {words[i % 5]} and {words[(i * 3) % 7]} number {i}. " * 3 for i in range(150)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    (folder / "train.toml").write_text(CONFIG.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def sae(place: Path) -> SparseAutoencoder:
    """Each feature is active on one token in fifty."""
    host = HostModel.load(str(place / "host"))
    ids = encode_prompt(host.tokenizer, (place / "text.jsonl").read_text()[:3000])
    point = HookPoint(1, "resid_post")
    x = host.activations(torch.tensor([ids]), None, [point])[point][0, 1:]
    sae = random_sae(32, 24)
    return replace(sae, b_enc=-(x @ sae.W_enc).quantile(0.98, dim=0))


@pytest.fixture
def folder(sae: SparseAutoencoder, place: Path, tmp_path: Path) -> Iterator[Path]:
    """The SAE's folder, and no journal of an earlier test."""
    metadata = SaeMetadata.describe(
        sae,
        name="sae",
        model_name="tiny",
        hook_point="blocks.1.hook_resid_post",
        provenance={"median_resid_norm": 5.0},
    )
    notes = tuple(FeatureNote(feature, "token 'e'", ("e",), ("e",), ()) for feature in range(24))
    save_sae(tmp_path / "sae", SaeBundle(sae, metadata, _statistics(), notes))
    yield tmp_path / "sae"
    (place / "run" / "labels" / "sae.jsonl").unlink(missing_ok=True)


def _statistics() -> FeatureStatistics:
    ones = torch.ones(24)
    return FeatureStatistics(ones, ones / 2, ones / 2, torch.zeros(24, dtype=torch.bool))


def clever(question: dict[str, Any]) -> Reply:
    """Writes always the same label, takes any label for the letter e, and gives four points."""
    system, user = (message["content"] for message in question["messages"])
    if "Description: '" in system:
        return chat_reply(f"Description: {WRITTEN}")
    if "Score: '" in system:
        return chat_reply("Pattern: e\nScore: 4")
    texts = user.splitlines()[2:]
    return chat_reply(json.dumps([int("e" in text.split(": ", 1)[1]) for text in texts]))


def labels(folder: Path, place: Path, *options: str) -> int:
    return main(["labels", str(folder), str(place / "train.toml"), *options])


def endpoint(server: ChatServer, *options: str) -> list[str]:
    return ["--endpoint", server.url, "--judge", "clever", "--features", "2", "5", "9", *options]


def test_without_a_judge_every_label_is_tested_by_its_words(
    folder: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert labels(folder, place, "--contexts", "2") == 0

    printed = capsys.readouterr().out
    summary = json.loads(printed[printed.index("{") :])
    notes = load_sae(folder).notes
    assert notes is not None
    values = [score.value for note in notes for score in note.scores]
    assert summary["features"] == 24
    assert summary["labels"]["tokens"]["tested"] == len(values) > 5
    assert summary["labels"]["tokens"]["failing_share"] == round(
        sum(value < 0.7 for value in values) / len(values), 3
    )
    assert all(len(note.sampled) == 2 for note in notes if note.scores)
    assert all(note.written is None for note in notes)


def test_an_sae_that_nobody_has_described_is_described_first(
    sae: SparseAutoencoder, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = SaeMetadata.describe(sae, name="new", model_name="x", hook_point="blocks.1.hook_resid_post")
    save_sae(tmp_path / "new", SaeBundle(sae, metadata))
    weights = load_sae(tmp_path / "new").metadata.weights_sha256

    assert labels(tmp_path / "new", place) == 0
    assert main(["evaluate", str(tmp_path / "new"), str(place / "train.toml")]) == 0

    capsys.readouterr()
    described = load_sae(tmp_path / "new")
    assert described.metadata.weights_sha256 == weights
    assert described.statistics is not None
    assert 0.005 < float(described.statistics.density.mean()) < 0.1
    assert described.notes is not None
    assert sum(bool(note.scores) for note in described.notes) > 5
    assert len({note.label for note in described.notes}) > 5


def test_a_judge_writes_labels_and_tests_both(folder: Path, place: Path) -> None:
    with chat_server(clever) as server:
        assert labels(folder, place, *endpoint(server, "--rubric")) == 0

    notes = load_sae(folder).notes
    assert notes is not None
    for note in notes:
        by_judge = {score.method: score for score in note.scores if score.judge}
        if note.feature not in (2, 5, 9):
            assert by_judge == {}
            assert note.written is None
            continue
        assert set(by_judge) == {"detection", "fuzzing", "rubric"}
        assert by_judge["rubric"] == LabelScore("rubric", 4.0, 5, "clever")
        assert note.written is not None
        assert note.written.text == WRITTEN
        assert note.written.by == "clever"
        assert [score.method for score in note.written.scores] == ["detection", "fuzzing"]
        # it takes both labels for the same thing, so both have the same score, and the made one stays
        assert note.written.found("detection") == by_judge["detection"]
        assert note.shown_label.text == "token 'e'"


def test_labels_alone_are_tested_where_none_are_to_be_written(folder: Path, place: Path) -> None:
    with chat_server(clever) as server:
        assert labels(folder, place, *endpoint(server, "--no-writing")) == 0

    notes = load_sae(folder).notes
    assert notes is not None
    assert notes[5].written is None
    assert notes[5].shown_label.score == notes[5].scores[1]
    assert notes[5].scores[1].method == "detection"


def test_a_run_that_failed_goes_on_and_asks_nothing_twice(
    folder: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chat_server(clever) as server:
        assert labels(folder, place, *endpoint(server, "--parallel", "1")) == 0
        whole = len(server.asked)
    expected = load_sae(folder).notes
    (place / "run" / "labels" / "sae.jsonl").unlink()

    def fails(question: dict[str, Any]) -> Reply:
        return clever(question) if len(server.asked) <= whole // 2 else Reply(b"no credit", 402)

    with chat_server(fails) as server:
        assert labels(folder, place, *endpoint(server, "--parallel", "1")) == 1
        first = len(server.asked)
    assert "answered 402" in capsys.readouterr().err
    with chat_server(clever) as server:
        assert labels(folder, place, *endpoint(server, "--parallel", "1")) == 0
        second = len(server.asked)

    assert load_sae(folder).notes == expected
    assert second < whole
    assert first + second <= whole + whole // 3 + 1  # only the feature that it failed on is asked about again


def test_answers_about_other_weights_are_not_taken_over(
    folder: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chat_server(clever) as server:
        assert labels(folder, place, *endpoint(server)) == 0
        assert labels(folder, place, *endpoint(server, "--rubric")) == 1

    assert "is about another rubric; delete it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--endpoint", "http://127.0.0.1:9/v1"], "--endpoint needs --judge"),
        (["--endpoint", "127.0.0.1:9", "--judge", "m"], "must begin with http"),
        (["--host-judge", "--features", "24"], "features must be from 0 to 23; got 24"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, place: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert labels(folder, place, *options) == 1

    assert said in capsys.readouterr().err


def test_the_host_can_judge(folder: Path, place: Path) -> None:
    assert labels(folder, place, "--host-judge", "--features", "3", "--no-writing") == 0

    notes = load_sae(folder).notes
    assert notes is not None
    assert [(score.method, score.judge) for score in notes[3].scores[1:]] == [
        ("detection", "host"),
        ("fuzzing", "host"),
    ]
