"""What a report says, as a table, as JSON and as an exit status."""

from __future__ import annotations

import json
from math import inf

import pytest

from steerd.cli.selftest import show
from steerd.selftest.report import Finding, Report, Status

PASSED = Finding(Status.PASSED, 0.00012, 0.002, "")
FAILED = Finding(Status.FAILED, inf, 0.002, "add, scale")
SKIPPED = Finding(Status.SKIPPED, None, None, "no CUDA")
WARNING = Finding(Status.WARNING, 0.25, 0.5, "least by topics")


def report(**findings: Finding) -> Report:
    return Report("tiny", "float32", "cpu", ("topics",), 12.3, findings)


def test_a_table_has_a_line_for_each_check() -> None:
    lines = report(first=PASSED, second=FAILED, third=SKIPPED).table().splitlines()

    assert lines == [
        "tiny in float32 on cpu, SAEs topics: 1 of 3 checks in 12 s failed",
        "check   worst    bound  result   remark",
        "first   0.00012  0.002  passed",
        "second  inf      0.002  failed   add, scale",
        "third                   skipped  no CUDA",
    ]


def test_only_a_failure_is_a_bad_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(report(first=PASSED, second=SKIPPED, third=WARNING), as_json=False) == 0
    assert show(report(first=PASSED, second=FAILED), as_json=False) == 1
    assert "1 of 2 checks in 12 s failed" in capsys.readouterr().out


def test_json_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(report(first=PASSED, second=FAILED), as_json=True) == 1

    record = json.loads(capsys.readouterr().out)
    assert not record["passed"]
    assert (record["host"], record["dtype"], record["device"]) == ("tiny", "float32", "cpu")
    assert record["checks"] == [
        {"name": "first", "status": "passed", "worst": 0.00012, "bound": 0.002, "remark": ""},
        {"name": "second", "status": "failed", "worst": None, "bound": 0.002, "remark": "add, scale"},
    ]
