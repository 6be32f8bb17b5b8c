from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.mixing_buffer import MixedBatch
from sae_train.config import Config
from sae_train.training.checkpoint import CheckpointError, newest_checkpoint
from sae_train.training.run_log import RunLog
from sae_train.training.sae_training import TrainingError
from sae_train.training.trainer import Trainer
from tests.sae_train.planted_rows import planted_directions
from tests.sae_train.runs import POINTS, planted_cache, planted_config, planted_trainer

SWEEP: list[dict[str, Any]] = [
    {"name": "a"},
    {"name": "wide", "d_sae": 64, "k": 5, "seed": 3},
    {"name": "later", "hook_point": str(POINTS[1]), "architecture": "topk", "learning_rate": 3e-3},
]


def train(config: Config, folder: Path) -> Trainer:
    """Run to the end, going on from what the run's folder holds."""
    cache = planted_cache(folder / "cache") if not (folder / "cache").exists() else _open(folder / "cache")
    trainer = planted_trainer(config, cache)
    with RunLog(Path(config.output) / "log.jsonl") as log:
        trainer.train(log)
    return trainer


def _open(folder: Path) -> ActivationCache:
    return ActivationCache.open_or_create(folder, {"made": "for a test"})


def records(config: Config, event: str) -> list[dict[str, Any]]:
    lines = (Path(config.output) / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        f"{learner.config.name}.{name}": tensor
        for learner in trainer.learners
        for name, tensor in learner.training.state().items()
    }


def assert_same(first: Trainer, second: Trainer) -> None:
    expected, found = weights(first), weights(second)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_a_run_learns_logs_and_counts(tmp_path: Path) -> None:
    config = planted_config(tmp_path, tokens=120_000)

    trainer = train(config, tmp_path)

    (trained,) = trainer.trained()
    served = trained.sae.to_inference(trained.scale.scale).to(dtype=torch.float32)
    similarity = (planted_directions() @ served.W_dec.t()).max(dim=1).values
    assert similarity.mean() > 0.9
    steps = records(config, "step")
    assert steps[-1]["mse"] < 0.3 * steps[0]["mse"]
    assert steps[-1]["sae"] == "sae"
    assert steps[-1]["step"] == trained.steps == 120_000 // 256
    assert 0.005 < trained.outlier_share < 0.02


def test_an_sae_learns_the_same_beside_others_at_its_hook_point_as_alone(tmp_path: Path) -> None:
    alone = train(planted_config(tmp_path, tokens=256 * 40), tmp_path)
    shutil.rmtree(tmp_path / "run")

    beside = train(planted_config(tmp_path, tokens=256 * 40, saes=[{}, SWEEP[1]]), tmp_path)

    for name, tensor in alone.learners[0].training.state().items():
        assert torch.equal(tensor, beside.learners[0].training.state()[name]), name


def test_each_sae_of_a_sweep_reads_its_own_hook_point_and_has_its_own_log(tmp_path: Path) -> None:
    config = planted_config(tmp_path, tokens=256 * 60, saes=SWEEP)

    trainer = train(config, tmp_path)

    assert [trained.sae.d_sae for trained in trainer.trained()] == [48, 64, 48]
    last = {record["sae"]: record for record in records(config, "step")}
    assert last["later"]["learning_rate"] == pytest.approx(last["a"]["learning_rate"] * 3 / 5)
    assert last["wide"]["l0"] == pytest.approx(5)
    assert last["a"]["l0"] == pytest.approx(3)
    medians = [trained.scale.median_norm for trained in trainer.trained()]
    assert medians[2] == pytest.approx(3 * medians[0], rel=0.1)


@pytest.mark.parametrize("cut", [1, 50, 100])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, cut: int) -> None:
    config = planted_config(tmp_path, tokens=256 * 120, saes=SWEEP, checkpoint_every=cut)
    whole = train(config, tmp_path)
    checkpoints = Path(config.output) / "checkpoints"
    newest = newest_checkpoint(checkpoints)
    assert newest is not None
    shutil.rmtree(newest)  # as if the run had been cut off before its end

    resumed = train(config, tmp_path)

    assert_same(whole, resumed)
    assert resumed.trained()[0].outlier_share == whole.trained()[0].outlier_share


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole_folder, folder = tmp_path / "whole", tmp_path / "killed"
    whole = train(planted_config(whole_folder, tokens=256 * 200, checkpoint_every=7), whole_folder)
    script = (
        "import sys; from pathlib import Path; from tests.sae_train.training.test_trainer import *\n"
        "folder = Path(sys.argv[1])\n"
        "train(planted_config(folder, tokens=256 * 200, checkpoint_every=7), folder)"
    )
    killed = 0
    for steps in (20, 120):
        process = subprocess.Popen([sys.executable, "-c", script, str(folder)])
        if _wait_for_step(folder / "run" / "checkpoints", steps, process):
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()

    resumed = train(planted_config(folder, tokens=256 * 200, checkpoint_every=7), folder)

    assert killed > 0
    assert_same(whole, resumed)


def _wait_for_step(checkpoints: Path, step: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a checkpoint of at least `step` is there; False when the process ends before."""
    while process.poll() is None:
        newest = newest_checkpoint(checkpoints)
        if newest is not None and int(newest.name.split("-")[1]) >= step:
            return True
    return False


def test_an_evaluation_at_intervals_is_logged_and_changes_nothing(tmp_path: Path) -> None:
    silent = train(planted_config(tmp_path, tokens=256 * 20), tmp_path)
    shutil.rmtree(tmp_path / "run")
    config = planted_config(tmp_path, tokens=256 * 20, evaluation={"every": 8})
    seen = planted_trainer(
        config, _open(tmp_path / "cache"), lambda sae, _, scale: {"of": sae.name, "x": scale.scale}
    )
    with RunLog(Path(config.output) / "log.jsonl") as log:
        seen.train(log)

    evaluations = records(config, "evaluation")
    assert [(record["step"], record["metrics"]["of"]) for record in evaluations] == [(8, "sae"), (16, "sae")]
    assert_same(silent, seen)


def test_special_tokens_may_count_more(tmp_path: Path) -> None:
    errors = []
    for weight in (1.0, 50.0):
        folder = tmp_path / str(weight)
        config = planted_config(folder, tokens=256 * 20, special_token_weight=weight)
        trainer = planted_trainer(config, planted_cache(folder / "cache"))
        acts = torch.randn(256, 1, 24, generator=torch.Generator().manual_seed(1)).half() * 10
        special = torch.arange(256) < 4
        for _ in range(150):
            trainer.train_step(MixedBatch(acts, special))
        (trained,) = trainer.trained()
        x = acts[:, 0].float()[special] * trained.scale.scale
        served = trained.sae.to_inference(1.0).to(dtype=torch.float32)
        top = served.encode(x).topk(3, dim=1)
        x_hat = served.decode(torch.zeros(len(x), 48).scatter(1, top.indices, top.values))
        errors.append(float((x - x_hat).square().mean()))

    assert errors[1] < errors[0]


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    train(planted_config(tmp_path, tokens=256), tmp_path)

    with pytest.raises(CheckpointError, match="another configuration"):
        train(planted_config(tmp_path, tokens=512), tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    config = planted_config(tmp_path, tokens=256)
    train(config, tmp_path)
    newest = newest_checkpoint(Path(config.output) / "checkpoints")
    assert newest is not None
    tensors = newest / "sae.sae.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])

    with pytest.raises(CheckpointError, match="step-00000001"):
        train(config, tmp_path)


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    config = planted_config(tmp_path, tokens=256 * 10, checkpoint_every=2)
    trainer = train(config, tmp_path)
    newest = newest_checkpoint(Path(config.output) / "checkpoints")
    batch = MixedBatch(torch.full((256, 1, 24), float("nan")).half(), torch.zeros(256, dtype=torch.bool))

    with pytest.raises(TrainingError, match=r"at step 10.*learning_rate"):
        trainer.train_step(batch)

    assert newest_checkpoint(Path(config.output) / "checkpoints") == newest


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = planted_config(tmp_path, tokens=256 * 10, checkpoint_every=5)
    trainer = planted_trainer(config, planted_cache(tmp_path / "cache"))
    real_fsync, calls = os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) > 3:  # the first checkpoint's three files fit
            raise OSError(28, "No space left on device")
        real_fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with (
        RunLog(Path(config.output) / "log.jsonl") as log,
        pytest.raises(CheckpointError, match=r"step-00000010: cannot be written: .*No space left"),
    ):
        trainer.train(log)

    found = sorted(path.name for path in (Path(config.output) / "checkpoints").iterdir())
    assert found == ["step-00000005"]
