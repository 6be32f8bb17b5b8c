from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from benchmarks import sae_step_peer
from benchmarks.report import Report
from benchmarks.sae_step import VARIANTS, in_turns, measure, planted_rows, scaled_rows, wish_for
from benchmarks.step_systems import OwnSteps, StepTimes, Wish, peer_process
from sae_train.architectures.catalogue import SETTINGS

OPTIONS = argparse.Namespace(
    rows=None, d_model=16, batch_size=64, k=3, threads=1, warm_up_steps=1, rounds=2, steps=2
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", scaled_rows(OPTIONS).numpy())
    return tmp_path / "rows.npy"


class Fixed:
    """A system that takes the same time for every step, and notes its turns."""

    def __init__(self, name: str, seconds: float, turns: list[str]) -> None:
        self.name, self.seconds, self.turns = name, seconds, turns

    def run(self, steps: int) -> StepTimes:
        self.turns.append(self.name)
        return StepTimes([self.seconds] * steps, [2 * self.seconds] * steps)

    def l0(self) -> float:
        return 3.0


def test_systems_take_turns_in_another_order_each_round() -> None:
    turns: list[str] = []
    systems = {name: Fixed(name, seconds, turns) for name, seconds in (("a", 0.5), ("b", 2.0))}

    rates = in_turns(systems, 64, rounds=3, steps=2)

    assert turns == ["a", "b", "b", "a", "a", "b"]
    assert rates["a"].clock == [128.0] * 3
    assert rates["b"].cpu == [16.0] * 3


@pytest.mark.parametrize("architecture", SETTINGS)
def test_our_steps_stay_as_sparse_as_they_start(architecture: str, rows: Path) -> None:
    system = OwnSteps(wish_for(architecture, 64, rows, OPTIONS))

    times = system.run(4)

    assert len(times.seconds) == len(times.cpu_seconds) == 4
    assert system.l0() == pytest.approx(3, rel=0.25)


def test_without_peers_only_our_row_is_measured(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("sae_step", out=None, console=Console(file=io.StringIO()))

    measure(report, wish_for("topk", 64, rows, OPTIONS), {}, OPTIONS)
    report.finish()

    assert capsys.readouterr().out == ""  # no target without the peer it names


def test_rows_are_scaled_to_a_mean_squared_norm_of_d_model(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).normal(5.0, 1.0, (600, 16)).astype(np.float16)
    np.save(tmp_path / "stored.npy", stored)
    options = argparse.Namespace(**{**vars(OPTIONS), "rows": tmp_path / "stored.npy"})

    scaled = scaled_rows(options)

    assert scaled.shape == (8 * 64, 16)
    assert float(scaled.square().sum(dim=1).mean()) == pytest.approx(16)
    first = torch.from_numpy(stored[0].astype(np.float32))
    torch.testing.assert_close(scaled[0] / scaled[0, 0], first / first[0])


def test_planted_rows_have_directions_of_unequal_weight() -> None:
    variances = torch.linalg.svdvals(planted_rows(512, 16) - planted_rows(512, 16).mean(dim=0))

    assert variances[0] > 1.2 * variances[-1]


class Echo(sae_step_peer.System):
    """A library of one step that does nothing."""

    def step(self, x: Tensor) -> None:
        assert x.shape == (64, 16)

    def l0(self, x: Tensor) -> float:
        return float(len(x))


def test_a_peer_answers_what_it_is_asked(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sae_step_peer.LIBRARIES, "echo", (Echo, "torch"))
    wish = wish_for("topk", 64, rows, OPTIONS)
    systems: dict[str, sae_step_peer.System] = {}

    def ask(request: dict[str, object]) -> dict[str, object]:
        return sae_step_peer.answer(systems, "echo", request)

    built = ask({"build": "one", **{name: getattr(wish, name) for name in Wish.__dataclass_fields__}})
    ran = ask({"run": "one", "steps": 5})

    assert built["versions"]["torch"] == torch.__version__  # type: ignore[index]
    assert len(ran["seconds"]) == len(ran["cpu_seconds"]) == 5  # type: ignore[arg-type]
    assert ask({"l0": "one"}) == {"l0": 64.0}
    assert ask({"drop": "one"}) == {}
    assert systems == {}


def test_a_peer_that_ends_is_reported_with_what_it_said(
    rows: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such library >&2\n")
    python.chmod(0o755)

    with pytest.raises(RuntimeError, match="ended"), peer_process("saelens", python, threads=1) as peer:
        peer.build("one", wish_for("topk", 64, rows, OPTIONS))

    assert "no such library" in capsys.readouterr().out


def test_every_library_and_architecture_is_known_to_the_peer() -> None:
    assert set(VARIANTS) == set(sae_step_peer.LIBRARIES)
    assert set(VARIANTS["saelens"]) == set(SETTINGS)
