"""Features of SAE folders and of a server, on the command line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from steerd.__main__ import main
from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.sae.feature_note import FeatureExample
from steerd.sae.sae_file import save_sae
from tests.server.running_server import RunningServer, tiny_config, tiny_parts
from tests.tiny_saes import bundle_of, random_sae


def test_matches_are_listed_with_their_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(tmp_path / "sae", bundle_of(random_sae(d_sae=8)))

    assert main(["features", "label", "--sae", str(tmp_path / "sae"), "--limit", "3"]) == 0

    output = capsys.readouterr().out
    assert "label of 0" in output
    assert "3 of 8 features" in output


def test_one_feature_is_shown_with_its_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(tmp_path / "sae", bundle_of(random_sae(d_sae=8)))

    assert main(["features", "--feature", "5", "--sae", str(tmp_path / "sae")]) == 0

    output = capsys.readouterr().out
    assert "label of 5" in output
    assert "\N{SNOWMAN}" in output


def test_labels_come_with_what_their_tests_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = bundle_of(random_sae(d_sae=3))
    assert bundle.notes is not None
    tested = replace(
        bundle.notes[1],
        sampled=(FeatureExample((" x",), (0.5,), percentile=37.5),),
        scores=(LabelScore("tokens", 0.62, 12, strong=0.8), LabelScore("detection", 0.71, 50, "a judge")),
        written=FeatureLabel("kinds of tea", (LabelScore("detection", 0.934, 50, "a judge"),), by="a model"),
    )
    notes = (bundle.notes[0], tested, bundle.notes[2])
    save_sae(tmp_path / "sae", replace(bundle, notes=notes))

    assert main(["features", "tea", "--sae", str(tmp_path / "sae")]) == 0
    table = capsys.readouterr().out
    assert main(["features", "--feature", "1", "--sae", str(tmp_path / "sae")]) == 0
    page = capsys.readouterr().out

    assert re.search(r"sae:1 .*kinds of tea.* 0\.93 ", table)
    assert "label of 1: tokens 0.62 (fails), 0.80 where strong, detection 0.71 by a judge" in page
    assert "kinds of tea, written by a model: detection 0.93 by a judge" in page
    assert "0.50, stronger than 38% of where it is active" in page


def test_a_feature_that_is_not_there_names_the_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_sae(tmp_path / "sae", bundle_of(random_sae(d_sae=8)))

    assert main(["features", "--feature", "8", "--sae", str(tmp_path / "sae")]) == 1
    assert "from 0 to 7; got 8" in capsys.readouterr().err


def test_folders_are_searched_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("one", "two")):
        save_sae(tmp_path / name, bundle_of(random_sae(d_sae=8, seed=seed)))
    saes = ["--sae", str(tmp_path / "one"), "--sae", str(tmp_path / "two")]

    assert main(["features", "label", "5", *saes]) == 0
    words = capsys.readouterr().out
    assert main(["features", "--near", "one:5", "--limit", "4", *saes]) == 0
    near = capsys.readouterr().out
    assert main(["features", "--feature", "two:3", *saes]) == 0
    page = capsys.readouterr().out

    assert re.findall(r"(one|two):5 ", words) == ["one", "two"]
    assert "2 of 2 features" in words
    assert len(re.findall(r"(one|two):\d", near)) == 4
    assert not re.search(r"one:5 ", near)
    assert "4 of 16 features" in near
    assert "two:3  label of 3" in page
    assert len(re.findall(r"two:\d", page)) == 8  # its own line and seven neighbours


def test_a_server_is_asked_when_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with RunningServer(tiny_config(), *tiny_parts()) as server:
        address = ["--address", server.address]
        assert main(["features", "label", "13", *address]) == 0
        words = capsys.readouterr().out
        assert main(["features", "--feature", "late:7", *address]) == 0
        page = capsys.readouterr().out
        reads = ["--near", "late:7", "--encoder", "--sae", "early", "--limit", "3"]
        assert main(["features", *reads, *address]) == 0
        near = capsys.readouterr().out
        assert main(["features", "--on", "rain", "--not-on", "sun", "--limit", "2", "--raw", *address]) == 0
        texts = capsys.readouterr().out

    assert "2 of 2 features" in words
    assert "late:7  label of 7" in page
    assert "suppresses" in page
    assert len(re.findall(r"early:\d", near)) == 3
    assert "cosine" in near
    assert "fires on" in texts
    assert "features by 2 texts" in texts
    assert len(re.findall(r"(early|late):\d", texts)) <= 2


def test_an_answer_can_be_had_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(tmp_path / "sae", bundle_of(random_sae(d_sae=8)))
    options = ["--sae", str(tmp_path / "sae"), "--json"]

    assert main(["features", "label", "3", *options]) == 0
    matches = json.loads(capsys.readouterr().out)
    assert main(["features", "--feature", "3", *options]) == 0
    page = json.loads(capsys.readouterr().out)

    assert [found["feature"] for found in matches["features"]] == [{"sae": "sae", "index": 3}]
    assert page["labels"] == [{"text": "label of 3", "scores": [], "by": ""}]
    assert page["contexts"][0]["tokens"][2] == "\N{SNOWMAN}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["sea", "--feature", "a:1"], "ask for different things"),
        (["--near", "a:1", "--on", "x"], "ask for different things"),
        (["--not-on", "x"], "--not-on needs --on"),
        (["--feature", "7"], "--feature needs --sae"),
        (["--feature", "starter-7:1"], "no SAE named 'starter-7' among starter-9"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    assert main(["features", *options]) == 1

    assert said in capsys.readouterr().err


def test_an_sae_without_labels_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(tmp_path / "sae", replace(bundle_of(random_sae(d_sae=8)), notes=None))

    assert main(["features", "--sae", str(tmp_path / "sae")]) == 1
    assert "features.jsonl is missing" in capsys.readouterr().err
