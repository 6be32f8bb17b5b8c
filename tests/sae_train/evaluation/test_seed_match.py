from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from sae_train.__main__ import main
from sae_train.evaluation.seed_match import match_folders
from steerd.errors import SaeFileError
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.sae_file import SaeBundle, save_sae
from tests.tiny_saes import bundle_of, random_sae


def saved(
    folder: Path, *, seed: int = 0, hook_point: str = "blocks.1.hook_resid_post", dead: int = 0
) -> Path:
    """A random SAE of 64 features, of which the first `dead` are dead."""
    bundle = bundle_of(random_sae(seed=seed), hook_point=hook_point)
    save_sae(folder, _with_dead(bundle, torch.arange(64) < dead), weights_dtype=torch.float32)
    return folder


def _with_dead(bundle: SaeBundle, dead: torch.Tensor) -> SaeBundle:
    alive = (~dead).float()
    return dataclasses.replace(
        bundle,
        statistics=FeatureStatistics(
            max_activation=2 * alive, density=0.1 * alive, mean_activation=alive, dead=dead
        ),
    )


def test_the_command_prints_the_match(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", dead=4)

    assert main(["match", str(a), str(b)]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["features_a"], found["features_b"]) == (64, 60)
    assert found["mcc"] == pytest.approx(1.0)
    assert found["nearest_mean_a"] < 1.0


def test_other_seeds_share_less(tmp_path: Path) -> None:
    found = match_folders(saved(tmp_path / "a"), saved(tmp_path / "b", seed=1))

    assert found.mcc is not None
    assert found.mcc < 0.7


def test_saes_of_unlike_places_are_refused(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", hook_point="blocks.2.hook_resid_post")

    with pytest.raises(SaeFileError, match=r"hook_point: blocks\.1\.hook_resid_post in .*a, but blocks\.2"):
        match_folders(a, b)


def test_an_sae_whose_features_are_all_dead_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SaeFileError, match="every feature is dead"):
        match_folders(saved(tmp_path / "a"), saved(tmp_path / "b", dead=64))
