"""`steerd dose` against a real server with a tiny host, and what it says of a curve."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from steerd.__main__ import main
from steerd.cli.dose import advice
from steerd.steering.intervention import FeatureRef
from steerd.studies.dose_curve import DoseCurve
from tests.server.running_server import RunningServer, tiny_config, tiny_parts
from tests.study_wire.test_evaluate import POINT, TEXT

CURVE = DoseCurve(True, FeatureRef("late", 3), 0.25, (), TEXT, "", (POINT,), ())


def test_the_best_strength_is_told_in_all_units() -> None:
    told = "2 (0.5 x the feature's maximum, 0.25 x the median residual norm)"

    assert advice(CURVE) == [f"sweet spot: {told}", f"safe up to: {told}"]
    unknown = replace(CURVE, points=(replace(POINT, feature_max=0.0, score=0.0),), complete=False)
    assert advice(unknown) == [
        "stopped early: not all strengths were tried",
        "no safe strength has an effect",
        "safe up to: 2 (0.25 x the median residual norm)",
    ]
    unsafe = replace(POINT, is_safe=False)
    assert advice(replace(CURVE, points=(unsafe,)))[-1] == "not even the smallest strength is safe"
    nothing = replace(CURVE, points=(), complete=False)
    assert advice(nothing) == ["stopped early: no strength was tried to the end"]


def test_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    with RunningServer(tiny_config(), *tiny_parts()) as server:
        command = ["dose", "late:5", "--address", server.address, "--prompt", "Hi", "--raw"]
        command += ["--strengths", "0.5", "1", "--max-new-tokens", "4", "--refine", "0"]
        assert main(command) == 0
        table = capsys.readouterr().out
        assert main([*command, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)

    assert "late:5: output score" in table
    assert "0.75" in table, "half of the maximum of 1.5"
    assert [point["feature_max"] for point in record["points"]] == [0.5, 1.0]
    assert record["complete"] is True
    assert {"safe_up_to", "sweet_spot", "output_score"} <= record.keys()
