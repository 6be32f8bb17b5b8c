"""Time and memory of a system in a process of its own."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from benchmarks.scaling import Point, points_of
from benchmarks.scaling_process import ENGINE, GENERATE, ScalingProcess, forget_peak, peak_bytes
from benchmarks.serving_process import resident_bytes
from steerd.host.host_model import HostModel


@pytest.mark.parametrize("system", [ENGINE, GENERATE])
def test_a_process_runs_the_prompts_then_decodes_when_asked(
    system: str, tiny_host: HostModel, tmp_path: Path
) -> None:
    tiny_host.model.save_pretrained(tmp_path)
    tiny_host.tokenizer.save_pretrained(tmp_path)
    begin = {"begin": system, "host": str(tmp_path), "batch": 2, "context": 9, "steps": 3}

    process = ScalingProcess(begin)
    begun = process.answer(begin)
    steps = [process.answer({"steps": count})["seconds"] for count in (1, 2)]
    memory = process.answer({"end": True})

    assert begun["prefill_seconds"] > 0
    assert [len(seconds) for seconds in steps] == [1, 2]
    assert memory["resident_bytes"] > 0
    assert memory["peak_bytes"] > 0


def test_a_peak_is_counted_from_when_the_one_before_was_forgotten() -> None:
    size = 64 << 20
    with mmap.mmap(-1, size) as memory:
        memory.write(b"x" * size)
        high = peak_bytes()
        assert high >= size
    forget_peak()

    assert peak_bytes() < high - size // 2
    assert peak_bytes() >= resident_bytes("self") - size // 2


def test_the_batches_and_the_contexts_cross_in_one_point() -> None:
    points = points_of([1, 4], [64, 128])

    assert points == [Point(1, 128), Point(4, 128), Point(4, 64)]
