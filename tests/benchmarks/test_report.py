from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.report import RESULTS_FOLDER, Report, Target, conditions, parser_of, report_for


def test_the_command_is_recorded_without_the_folders_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["walk", "--cache", str(tmp_path / "rows"), "--rate", "3e-3", "a/b"])

    assert conditions()["command"].endswith(" --cache .../rows --rate 3e-3 a/b")


def quiet_report(out: Path | None) -> Report:
    return Report("walk", out=out, console=Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("value", "at_least", "line"),
    [
        (0.9, True, "target ratio 0.9 >=0.87 ok"),
        (0.87, True, "target ratio 0.87 >=0.87 ok"),
        (0.86, True, "target ratio 0.86 >=0.87 short"),
        (0.86, False, "target ratio 0.86 <=0.87 ok"),
        (1.5, False, "target ratio 1.5 <=0.87 short"),
        (float("nan"), True, "target ratio nan >=0.87 short"),
        (float("nan"), False, "target ratio nan <=0.87 short"),
    ],
)
def test_target_line(value: float, at_least: bool, line: str) -> None:
    assert str(Target("ratio", value, 0.87, at_least)) == line


def test_targets_are_printed_in_order_after_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("walk", out=None)
    report.at_least("steps", 12.0, 10.0)
    report.add_rows("Steps a minute", [{"road": "flat", "steps": 120.5}])
    report.at_most("seconds", 3.0, 2.0)

    report.finish()

    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["target steps 12 >=10 ok", "target seconds 3 <=2 short"]
    assert any("120.5" in line for line in lines[:-2])


def test_result_file_holds_rows_targets_and_conditions(tmp_path: Path) -> None:
    out = tmp_path / "results" / "walk.json"
    report = quiet_report(out)
    report.add_rows("Steps", [{"road": "flat", "steps": 120}])
    report.add_rows("Steps", [{"road": "hill", "steps": 80}])
    report.at_least("steps", 80, 100)

    report.finish()

    result = json.loads(out.read_text())
    assert result["benchmark"] == "walk"
    assert result["rows"] == {"Steps": [{"road": "flat", "steps": 120}, {"road": "hill", "steps": 80}]}
    assert result["targets"] == [{"name": "steps", "value": 80, "bound": 100, "at_least": True, "ok": False}]
    assert {"date", "command", "device", "cpu", "threads", "versions"} <= result.keys()
    assert {"python", "steerd", "torch", "transformers"} == result["versions"].keys()


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        ([], RESULTS_FOLDER / "walk.json"),
        (["--quick"], None),
        (["--quick", "--out", "a.json"], Path("a.json")),
        (["--out", "a.json"], Path("a.json")),
    ],
)
def test_quick_writes_only_where_it_is_told(arguments: list[str], out: Path | None) -> None:
    options = parser_of("Walk.").parse_args(arguments)

    assert report_for("walk", options).out == out
