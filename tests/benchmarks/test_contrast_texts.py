from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.contrast_texts import compare, tell, texts_of
from benchmarks.report import Report
from steerd.steering.intervention import FeatureRef
from steerd.studies.contrast_table import Contrast, ContrastedFeature, Difference, FeatureUse, TextCount
from tests.tiny_hosts import make_tiny_host


def contrast() -> Contrast:
    """Feature 2, which does more in A."""
    found = Difference(FeatureUse(0.5, 0.1, 3.0, 0.2), FeatureUse(0.25, 0.1, 1.0, 0.1), 0.5, 0.4, 1e-4)
    feature = ContrastedFeature(FeatureRef("s", 2), "", "a", found, 0.01, found, 0.01, confirmed=True)
    return Contrast(True, TextCount(4, 4, 80), TextCount(4, 4, 80), 3, 1, 1, (feature,))


def peer_table(**changes: float) -> dict[str, Any]:
    """What a peer that agrees has for four features, of which the third is feature 2."""
    figures = {"cliffs_delta": 0.4, "text_rate_a": 0.5, "text_rate_b": 0.25, "mean_peak_a": 3.0}
    columns = {name: np.array([9.0, 9.0, value, 9.0]) for name, value in (figures | changes).items()}
    return {"mean_peak_b": np.array([9.0, 9.0, 1.0, 9.0]), "found": np.array([2, 3]), **columns} | {
        "confirmed": np.array([2])
    }


def result_of(report: Report, capsys: pytest.CaptureFixture[str]) -> str:
    report.finish()
    return capsys.readouterr().out


@pytest.mark.parametrize(("changes", "said"), [({}, "ok"), ({"mean_peak_a": 3.1}, "short")])
def test_a_figure_that_differs_is_a_target_missed(
    changes: dict[str, float], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("contrast_texts", out=None)
    compare(report, contrast(), peer_table(**changes))

    output = result_of(report, capsys)
    (line,) = [line for line in output.splitlines() if line.startswith("target")]
    assert line.endswith(said)
    assert [
        cell.strip() for cell in next(x for x in output.splitlines() if "found" in x).split("│")[2:5]
    ] == [
        "1",
        "2",
        "1",
    ]


def test_the_ratio_is_the_median_over_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("contrast_texts", out=None)
    ours = [{"encode": 1.0, "compare": 1.0}, {"encode": 3.0, "compare": 1.0}, {"encode": 1.0, "compare": 0.0}]
    theirs = [
        {"encode": 4.0, "compare": 0.0},
        {"encode": 4.0, "compare": 0.0},
        {"encode": 3.0, "compare": 0.0},
    ]
    tell(report, {"steerd": ours, "SAELens": theirs}, tokens=100)

    assert "times_as_fast_as_saelens 2 >=1 ok" in result_of(report, capsys)


def test_texts_are_the_first_of_their_source(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    lines = [{"text": f"{source}{number}xyz", "source": source} for number in range(50) for source in "pq"]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    host = make_tiny_host()

    texts = texts_of(host, path, "q", Namespace(quick=False, count=3, tokens=4))
    assert [bytes(text) for text in texts] == [b"q0xy", b"q1xy", b"q2xy"]
    with pytest.raises(SystemExit, match=r"some.jsonl has 50 texts of 'q'; 60 are needed"):
        texts_of(host, path, "q", Namespace(quick=False, count=60, tokens=4))
