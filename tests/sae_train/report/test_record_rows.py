from __future__ import annotations

import re

import sae_train.evaluation.evaluation
from sae_train.report.metric_words import WORDS, words_for
from sae_train.report.record_rows import breakdowns, metric_notes, metric_rows, path_rows


def test_every_figure_of_an_evaluation_has_words() -> None:
    table = sae_train.evaluation.evaluation.__doc__ or ""
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    names = {name for cell in first_cells[1:] for name in re.findall(r"\w+", cell)}

    assert len(names) > 30
    assert names - set(WORDS) == set()


def test_figures_come_with_their_words_and_values() -> None:
    metrics = {
        "l0_mean": 32.0,
        "tokens": 120001,
        "unheard_of": 0.25,
        "gone": None,
        "weights_dtype": "bfloat16",
    }

    rows = metric_rows({**metrics, "density_log10_counts": [1, 2], "by_id": {}})

    assert [(row.name, row.words.title, row.value) for row in rows] == [
        ("l0_mean", "L0", "32"),
        ("tokens", "Held-out tokens", "120,001"),
        ("unheard_of", "Unheard of", "0.25"),
        ("weights_dtype", words_for("weights_dtype").title, "bfloat16"),
    ]


def test_sentences_are_notes_warnings_first() -> None:
    metrics = {
        "note": "on held-out documents only",
        "warnings": ["it does not fit"],
        "weights_dtype": "float32",
    }

    assert metric_notes(metrics) == ["it does not fit", "on held-out documents only"]
    assert [row.name for row in metric_rows(metrics)] == ["weights_dtype"]


def test_figures_by_thing_are_tables() -> None:
    (table,) = breakdowns(
        {"special_tokens_by_id": {"1": {"count": 5, "mse": 0.5}, "2": {"count": 6}}, "l0": 3}
    )

    assert table.columns == ["count", "mse"]
    assert table.rows == [("1", ["5", "0.5"]), ("2", ["6", ""])]


def test_every_other_value_has_its_path() -> None:
    record = {"data": {"sources": [{"path": "a"}, {"path": "b"}], "tokens": 10_000}, "licence": "", "x": None}

    assert path_rows(record) == [
        ("data.sources[0].path", "a"),
        ("data.sources[1].path", "b"),
        ("data.tokens", "10,000"),
    ]
