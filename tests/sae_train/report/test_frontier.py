from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sae_train.report.frontier import frontier
from steerd.errors import SaeFileError


def card(l0: float, kept: float | None = 0.9, architecture: str = "topk") -> dict[str, Any]:
    return {
        "training_architecture": architecture,
        "hook_point": "blocks.1.hook_resid_post",
        "recipe": {"sae": {"d_sae": 64}},
        "metrics": {"l0_mean": l0, "variance_explained": kept, "cross_entropy_recovered_from_zero": 0.99},
    }


def test_points_are_the_cards_figures_by_l0(tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "steerd.json").write_text(json.dumps(card(8, architecture="jumprelu")))
    (tmp_path / "silent.json").write_text(json.dumps({"metrics": {}}))
    (tmp_path / "half.json").write_text(json.dumps(card(16, kept=None)))

    points = frontier(("mine", card(12)), [tmp_path / n for n in ("half.json", "silent.json", "wide")])

    assert [(p.name, p.l0, p.variance_explained, p.this) for p in points] == [
        ("wide", 8, 0.9, False),
        ("mine", 12, 0.9, True),
        (tmp_path.name, 16, None, False),
    ]
    assert points[0].group == "jumprelu · 64 · blocks.1.hook_resid_post"
    assert {p.cross_entropy_recovered for p in points} == {0.99}


def test_an_sae_without_a_card_has_no_point() -> None:
    assert frontier(("mine", {}), []) == []


def test_a_card_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SaeFileError, match="absent"):
        frontier(("mine", {}), [tmp_path / "absent"])
