from __future__ import annotations

from pathlib import Path

import pytest

from sae_train.labels.journal import JournalError, JudgedFeature, open_journal
from steerd.sae.feature_label import FeatureLabel, LabelScore

ABOUT = {"weights": "abc", "judge": "m"}
FIRST = JudgedFeature(3, (LabelScore("detection", 0.8, 50, "m", 0.9),), FeatureLabel("tea\u2028", (), "m"))
SECOND = JudgedFeature(5, (), None)


def test_what_was_added_is_there_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    with open_journal(path, ABOUT) as journal:
        journal.add(FIRST)
    with open_journal(path, ABOUT) as journal:
        assert journal.done == {3: FIRST}
        journal.add(SECOND)
    with open_journal(path, ABOUT) as journal:
        assert journal.done == {3: FIRST, 5: SECOND}


def test_a_line_that_was_cut_off_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with open_journal(path, ABOUT) as journal:
        journal.add(FIRST)
        journal.add(SECOND)
    path.write_bytes(path.read_bytes()[:-9])

    with open_journal(path, ABOUT) as journal:
        assert journal.done == {3: FIRST}
        journal.add(SECOND)

    with open_journal(path, ABOUT) as journal:
        assert journal.done == {3: FIRST, 5: SECOND}


def test_a_journal_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with open_journal(path, ABOUT) as journal:
        journal.add(FIRST)
    before = path.read_bytes()

    with pytest.raises(JournalError, match="is about another judge; delete it"):
        open_journal(path, ABOUT | {"judge": "other"}).__enter__()

    assert path.read_bytes() == before


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("{}\n{\n")

    with pytest.raises(JournalError, match=r"journal\.jsonl: is damaged"):
        open_journal(path, {}).__enter__()
