"""The smallest of the limits that a machine and its control groups set."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerd.monitoring.memory_limit import memory_limit


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 2048 * 1024),
        ({"memory.max": "max"}, 2048 * 1024),
        ({"memory.max": "1000000"}, 1_000_000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, 2048 * 1024),
        ({"memory/memory.limit_in_bytes": "500000"}, 500_000),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, limits: dict[str, str], expected: int) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemFree: 1 kB\nMemTotal:        2048 kB\n")
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")

    assert memory_limit(tmp_path, meminfo) == expected


def test_a_machine_that_does_not_tell_has_none(tmp_path: Path) -> None:
    assert memory_limit(tmp_path, tmp_path / "meminfo") is None


def test_this_machine_tells() -> None:
    limit = memory_limit()

    assert limit is not None
    assert limit > 2**27
