from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sae_train.activations.held_out import held_out_rows
from sae_train.evaluation.calibration import calibrate_threshold
from sae_train.evaluation.reconstruction import reconstruction
from sae_train.training.checkpoint import CheckpointError, newest_checkpoint
from sae_train.training.run_log import RunLog
from sae_train.training.trainer import Trainer, TrainingError
from tests.sae_train.runs import ACTIVE, planted_cache, planted_config, planted_directions


def test_planted_features_are_recovered(tmp_path: Path) -> None:
    cache, config = planted_cache(tmp_path / "cache"), planted_config(tmp_path)

    with RunLog(tmp_path / "log.jsonl") as log:
        trained = Trainer(config, cache, tmp_path / "run").train(log)

    served = trained.sae.to_inference(trained.scale.scale, 0.0).to(dtype=torch.float32)
    similarity = (planted_directions() @ served.W_dec.t()).max(dim=1).values
    assert similarity.mean() > 0.95
    assert (similarity > 0.9).float().mean() > 0.9
    steps = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps[-1]["mse"] < 0.15 * steps[0]["mse"] or steps[-1]["mse"] < 0.05
    assert steps[-1]["dead_share"] < 0.5
    assert 0.005 < trained.outlier_share < 0.02


def test_the_calibrated_threshold_keeps_k_features_a_held_out_token(tmp_path: Path) -> None:
    cache, config = planted_cache(tmp_path / "cache"), planted_config(tmp_path, tokens=60_000)
    with RunLog(tmp_path / "log.jsonl") as log:
        trained = Trainer(config, cache, tmp_path / "run").train(log)
    scale = trained.scale
    plain = trained.sae.to_inference(scale.scale, 0.0)

    threshold = calibrate_threshold(
        plain,
        lambda: (batch.resid for batch in held_out_rows(cache, scale, frozenset())),
        k=ACTIVE,
        guess=trained.sae.last_smallest / scale.scale,
    )

    served = trained.sae.to_inference(scale.scale, threshold * scale.scale).to(dtype=torch.float32)
    measured = reconstruction(served, held_out_rows(cache, scale, frozenset()))
    assert measured.l0_mean == pytest.approx(ACTIVE, rel=0.02)
    assert measured.variance_explained > 0.8


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "cache")
    config = planted_config(tmp_path, tokens=256 * 120, checkpoint_every=50)
    with RunLog(tmp_path / "log.jsonl") as log:
        whole = Trainer(config, cache, tmp_path / "whole").train(log)
    cut = tmp_path / "whole" / "checkpoints"
    assert sorted(path.name for path in cut.iterdir()) == ["step-00000100", "step-00000120"]
    shutil.copytree(cut / "step-00000100", tmp_path / "cut" / "checkpoints" / "step-00000100")

    with RunLog(tmp_path / "log.jsonl") as log:
        resumed = Trainer(config, cache, tmp_path / "cut").train(log)

    for name, tensor in whole.sae.state_dict().items():
        assert torch.equal(tensor, resumed.sae.state_dict()[name]), name
    assert resumed.steps == whole.steps == 120
    assert resumed.outlier_share == whole.outlier_share


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "cache")
    with RunLog(tmp_path / "log.jsonl") as log:
        Trainer(planted_config(tmp_path, tokens=256), cache, tmp_path / "run").train(log)

    with pytest.raises(CheckpointError, match="another configuration"):
        Trainer(planted_config(tmp_path, tokens=512), cache, tmp_path / "run")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    cache, config = planted_cache(tmp_path / "cache"), planted_config(tmp_path, tokens=256)
    with RunLog(tmp_path / "log.jsonl") as log:
        Trainer(config, cache, tmp_path / "run").train(log)
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None
    tensors = newest / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])

    with pytest.raises(CheckpointError, match="step-00000001"):
        Trainer(config, cache, tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    cache, config = planted_cache(tmp_path / "cache"), planted_config(tmp_path)
    trainer = Trainer(config, cache, tmp_path / "run")

    with pytest.raises(TrainingError, match=r"nan at step 0.*learning_rate"):
        trainer.train_step(torch.full((256, 24), float("nan")))


def test_dead_features_are_revived(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "cache")
    dead_shares = []
    for alpha in (0.0, 1 / 32):
        config = planted_config(tmp_path, tokens=80_000, auxk_alpha=alpha)
        trainer = Trainer(config, cache, tmp_path / f"run-{alpha}")
        trainer.sae.b_enc.data[:16] = -3.0
        with RunLog(tmp_path / f"log-{alpha}.jsonl") as log:
            trainer.train(log)
        last = (tmp_path / f"log-{alpha}.jsonl").read_text().splitlines()[-1]
        dead_shares.append(json.loads(last)["dead_share"])

    assert dead_shares[0] > dead_shares[1]
