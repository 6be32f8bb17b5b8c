"""Readings and summaries as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from steerd.cli.tables import (
    Peak,
    active,
    after_edit_table,
    divergence_line,
    edit_text,
    peaks,
    peaks_table,
    receipt_table,
    speed_line,
    summary_table,
    token_table,
)
from steerd.client_messages import BaselineEnd, Completed, FeatureUse, Reading, Token
from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.steering.intervention import (
    Ablate,
    Add,
    FeatureRef,
    Intervention,
    Limit,
    Reconstruct,
    WholeSae,
    unit_direction,
)
from steerd.steering.receipt import HookPointReceipt, InterventionReceipt, Receipt

ONE, TWO, THREE = (FeatureRef("s", index) for index in (1, 2, 3))
COMPLETED = Completed("length", 5, 11, 0.1, 0.2, 2.0, (FeatureUse(ONE, 3.25, 0.5, 4, 9),))


def printed(table: Table) -> str:
    console = Console(width=120, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_an_edit_is_written_as_the_command_line_takes_it() -> None:
    along = unit_direction("blocks.1.hook_resid_pre", [1.0, 0.0])
    edits = [
        (Intervention(target=ONE, operation=Add(-2.5)), "add s:1=-2.5"),
        (Intervention(target=ONE, operation=Limit(high=3.0)), "limit s:1=:3"),
        (Intervention(target=WholeSae("s"), operation=Reconstruct()), "reconstruct s"),
        (
            Intervention(target=along, operation=Ablate()),
            f"ablate blocks.1.hook_resid_pre:{along.sha256[:12]}",
        ),
    ]

    assert [edit_text(edit) for edit, _ in edits] == [text for _, text in edits]


def test_a_receipt_tells_of_each_intervention_and_hook_point() -> None:
    edits = [
        Intervention(target=ONE, operation=Add(8.0)),
        Intervention(target=WholeSae("s"), operation=Reconstruct()),
    ]
    receipt = Receipt(
        (InterventionReceipt(12, 11, 0.25, 0.5, 8.5), InterventionReceipt(4, 3, 0.125, 0.0, 0.0)),
        (HookPointReceipt("blocks.1.hook_resid_post", 11, 0.375, 0.625),),
    )

    lines = printed(receipt_table(edits, receipt)).splitlines()
    rows = [[cell.strip() for cell in line.split("\N{BOX DRAWINGS LIGHT VERTICAL}")[1:-1]] for line in lines]

    assert ["add s:1=8", "12", "11", "0.250", "0.50", "8.50"] in rows
    assert ["reconstruct s", "4", "3", "0.125", "", ""] in rows
    assert ["blocks.1.hook_resid_post", "", "11", "0.375, at most 0.625", "", ""] in rows


def test_what_was_read_after_the_edits_is_told_beside_what_was_read_before() -> None:
    readings = [
        Reading(4, "s", (1, 2, 9), (1.0, 0.5, 3.0), (2.0, 0.5)),
        Reading(5, "s", (1, 2), (3.0, 0.0), (6.0, 0.25)),
    ]

    lines = printed(after_edit_table(readings, {ONE: FeatureLabel("one")})).splitlines()
    rows = [[cell.strip() for cell in line.split("\N{BOX DRAWINGS LIGHT VERTICAL}")[1:-1]] for line in lines]

    assert ["s:1", "one [untested]", "2", "2.00", "4.00"] in rows
    assert ["s:2", "", "2", "0.25", "0.38"] in rows
    assert not any("s:9" in row for row in rows)


def test_active_features_come_strongest_first() -> None:
    reading = Reading(4, "s", (1, 3, 2), (0.5, 2.0, 0.0))

    assert active(reading) == [(THREE, 2.0), (ONE, 0.5)]


def test_a_peak_is_the_largest_reading_and_counts_all() -> None:
    readings = [
        Reading(4, "s", (1, 2), (1.0, 0.5)),
        Reading(5, "s", (1,), (3.0,)),
        Reading(6, "s", (1,), (2.0,)),
    ]

    assert peaks(readings) == [Peak(ONE, 3.0, 5, 3), Peak(TWO, 0.5, 4, 1)]


def test_tables_show_labels_and_survive_brackets() -> None:
    labels = {ONE: FeatureLabel("[bold] brackets", (LabelScore("tokens", 0.75, 9),))}

    assert "[bold] brackets [0.75]" in printed(summary_table(COMPLETED, labels))
    assert "' [x]'" in printed(peaks_table([Peak(ONE, 3.0, 5, 3)], {5: " [x]"}, labels))


def test_each_token_has_its_features() -> None:
    tokens = [Token(0, 5, 0.0, "a"), Token(0, 6, 0.0, "b")]

    labels = {TWO: FeatureLabel("seas (mostly novels)", (LabelScore("tokens", 0.75, 9),))}
    lines = printed(token_table(tokens, [Reading(5, "s", (2, 1), (1.5, 0.5))], [], labels)).splitlines()

    assert any("'a'" in line and "seas [0.75] 1.5   s:1 0.5" in line for line in lines)
    assert any("'b'" in line and "seas" not in line for line in lines)


def test_the_speed_counts_the_tokens_after_the_first() -> None:
    assert speed_line(COMPLETED).endswith("first after 0.30 s, 5.0 tokens/s")


def test_a_baseline_tells_where_the_texts_part() -> None:
    parted, same = BaselineEnd("stop", 5, 9, 7, 0.1234), BaselineEnd("stop", 5, 9, None, 0.0)

    assert "from position 7 on" in divergence_line(parted)
    assert "0.123 nats" in divergence_line(parted)
    assert "the same text" in divergence_line(same)
