"""Searching the features of an SAE folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from steerd.__main__ import main
from steerd.cli.feature_pages import search
from steerd.sae.feature_files import FeatureNote
from steerd.sae.sae_file import save_sae
from tests.tiny_saes import bundle_of, random_sae

NOTES = [
    FeatureNote(0, "the sea", (" ship",), (" waves",), ()),
    FeatureNote(1, "dogs", (" Sea", "lion"), (), ()),
    FeatureNote(2, "numbers", ("1", "2"), ("3",), ()),
]


@pytest.mark.parametrize(
    ("words", "found"),
    [(["sea"], [0, 1]), (["SEA", "ship"], [0]), (["3"], [2]), (["sea", "3"], []), ([], [0, 1, 2])],
)
def test_every_word_must_be_found_and_labels_come_first(words: list[str], found: list[int]) -> None:
    assert [note.feature for note in search(NOTES, words)] == found
    assert [note.feature for note in search(NOTES[::-1], words)] == (
        found if words == ["sea"] else found[::-1]
    )


def test_matches_are_listed_with_their_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(tmp_path / "sae", bundle_of(random_sae(d_sae=8)))

    assert main(["features", "label", "--sae", str(tmp_path / "sae"), "--limit", "3"]) == 0

    output = capsys.readouterr().out
    assert "label of 0" in output
    assert "3 of 8 matches" in output


def test_one_feature_is_shown_with_its_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(tmp_path / "sae", bundle_of(random_sae(d_sae=8)))

    assert main(["features", "--feature", "5", "--sae", str(tmp_path / "sae")]) == 0

    output = capsys.readouterr().out
    assert "label of 5" in output
    assert "\N{SNOWMAN}" in output


def test_a_feature_that_is_not_there_names_the_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_sae(tmp_path / "sae", bundle_of(random_sae(d_sae=8)))

    assert main(["features", "--feature", "8", "--sae", str(tmp_path / "sae")]) == 1
    assert "from 0 to 7; got 8" in capsys.readouterr().err


def test_an_sae_without_labels_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(tmp_path / "sae", replace(bundle_of(random_sae(d_sae=8)), notes=None))

    assert main(["features", "--sae", str(tmp_path / "sae")]) == 1
    assert "features.jsonl is missing" in capsys.readouterr().err
