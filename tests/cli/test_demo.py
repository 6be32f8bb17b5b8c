"""The demonstration, as `make demo` runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from steerd.__main__ import main
from steerd.cli.demo import SCENES, demo_config
from steerd.config_file import load_config
from steerd.starters import STARTERS, sae_folder


def test_the_demo_serves_the_starter_saes_and_watches_its_features(tmp_path: Path) -> None:
    (tmp_path / "demo.toml").write_text(demo_config(50001, 50002))

    config = load_config(tmp_path / "demo.toml")

    assert (config.server.port, config.monitoring.port) == (50001, 50002)
    assert [sae.name for sae in config.saes] == list(STARTERS)
    assert [watched.index for watched in config.monitoring.watch] == [scene.feature for scene in SCENES]


def test_its_features_are_alive_and_labelled() -> None:
    from steerd.sae.sae_file import load_sae

    bundle = load_sae(sae_folder("starter-14"))

    assert SCENES
    assert bundle.statistics is not None
    assert bundle.notes is not None
    assert not any(bundle.statistics.dead[scene.feature] for scene in SCENES)
    assert all(bundle.notes[scene.feature].label for scene in SCENES)


@pytest.mark.real_host
def test_it_ends_by_itself_and_shows_what_steering_does(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0

    output = capfd.readouterr().out
    assert output.count("Without steering") == len({scene.prompt for scene in SCENES})
    assert output.count("Features of each token") == len(SCENES)
    for scene in SCENES:
        assert re.search(
            rf'steerd_feature_active_tokens_total{{.*feature="{scene.feature}".*}} [1-9]', output
        )
    assert "ended with status 0" in output
