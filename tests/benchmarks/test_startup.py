"""What the measurement of starts makes of its seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import Report
from benchmarks.startup import report_starts


def test_imports_are_compared_without_the_interpreters_own_start(tmp_path: Path) -> None:
    report = Report("startup", out=tmp_path / "startup.json")
    found = {
        "python": [1.0, 1.0, 9.0],
        "import steerd": [1.5, 1.2, 1.4],
        "import steerd.client": [2.0, 2.0, 2.0],
        "import torch": [5.0, 5.0, 7.0],
        "transformers, to its first token": [10.0, 30.0, 20.0],
        "steerd serve": [31.0, 60.0, 30.0],
    }

    report_starts(report, found)
    report.finish()

    targets = json.loads((tmp_path / "startup.json").read_text())["targets"]
    assert [target["value"] for target in targets] == pytest.approx([0.1, 0.25, 1.55])
    assert [target["ok"] for target in targets] == [True, True, False]
