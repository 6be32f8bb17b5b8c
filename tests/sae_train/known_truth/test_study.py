"""A small study from rows to table: a toy is found, every kind takes part, mistakes are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae_train.__main__ import main
from sae_train.architectures.batch_topk import BatchTopKSettings
from sae_train.architectures.catalogue import SETTINGS
from sae_train.config import TrainingConfig
from sae_train.known_truth.learning import Candidate, learn
from sae_train.known_truth.presets import PRESETS, Preset
from sae_train.known_truth.recovery import absolute_cosines
from sae_train.known_truth.study import Entrant, study
from sae_train.known_truth.table import findings_table
from sae_train.known_truth.toy_superposition import ToySettings
from sae_train.known_truth.truth import SAMPLE_BATCHES, training_rows
from steerd.errors import ConfigError
from steerd.sae.autoencoder import SparseAutoencoder

TOY = Preset(
    truth=ToySettings(num_features=24, d_model=16, probability=0.06),
    d_sae=24,
    l0=2,
    standard_l1=2.0,
    gated_l1=2.0,
    learning_rate=1e-2,
    samples=60_000,
    batch_size=256,
)


def entrant(architecture: str, preset: Preset = TOY) -> Entrant:
    return Entrant(
        architecture=architecture,
        settings=preset.settings(architecture),
        learning_rate=preset.learning_rate,
    )


def test_a_toy_is_found_and_an_untrained_sae_finds_less() -> None:
    (found,) = study(TOY, [entrant("topk")], seeds=[0])
    (begun,) = study(replace(TOY, samples=256), [entrant("topk")], seeds=[0])

    assert found.scores.mcc > 0.9
    assert found.scores.recovered > 0.75
    assert found.scores.mcc > begun.scores.mcc + 0.2
    assert found.scores.true_l0 == pytest.approx(24 * 0.06, abs=0.05)


def test_every_architecture_takes_part_and_is_scored() -> None:
    preset = replace(TOY, samples=10 * 256)

    findings = study(preset, [entrant(name) for name in SETTINGS], seeds=[0])

    assert [finding.entrant.architecture for finding in findings] == list(SETTINGS)
    assert all(0 < finding.scores.mcc < 1 for finding in findings)
    by_name = {finding.entrant.architecture: finding.scores for finding in findings}
    assert by_name["batch_topk"].l0 == pytest.approx(TOY.l0, rel=0.03)
    assert by_name["matryoshka_batch_topk"].l0 == pytest.approx(TOY.l0, rel=0.03)
    assert by_name["topk"].l0 <= TOY.l0


def test_who_else_takes_part_changes_nothing() -> None:
    preset = replace(TOY, samples=20 * 256)
    alone = study(preset, [entrant("batch_topk")], seeds=[3])[0]

    together = study(preset, [entrant("topk"), entrant("batch_topk")], seeds=[2, 3])[3]

    assert (together.seed, together.entrant.architecture) == (3, "batch_topk")
    assert together.scores == alone.scores


def test_each_entrant_has_a_warm_up_of_its_own() -> None:
    preset = replace(TOY, samples=20 * 256)
    usual = entrant("topk")
    slow = replace(usual, warm_up_share=1.0)

    alone, beside_slow, warmed = study(preset, [usual, usual, slow], seeds=[0])

    assert alone.scores == beside_slow.scores
    assert warmed.scores.variance_explained < alone.scores.variance_explained
    assert warmed.as_json()["warm_up_share"] == 1.0


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"warm_up_share: must be between 0 and 1, found 1\.5"):
        study(TOY, [replace(entrant("topk"), warm_up_share=1.5)], seeds=[0])


def test_each_seed_begins_elsewhere() -> None:
    first, second = study(replace(TOY, samples=256), [entrant("topk")], seeds=[0, 1])

    assert absolute_cosines(first.sae.W_dec, second.sae.W_dec).diagonal().mean() < 0.5


def test_thresholds_come_from_rows_that_were_not_trained_on() -> None:
    seen = 0
    stream = training_rows(TOY.open(), batch_size=256, seed=0)
    sample = torch.cat([next(stream) for _ in range(SAMPLE_BATCHES)])
    candidate = Candidate(settings=BatchTopKSettings(k=2), d_sae=24, learning_rate=1e-2, seed=0)

    def count(rows: int) -> None:
        nonlocal seen
        seen += rows

    (sae,) = learn(
        [candidate],
        stream,
        sample=sample,
        training=TrainingConfig(tokens=1000, batch_size=256),
        on_step=count,
    )

    assert seen == 3 * 256
    assert float((sae.encode(sample) > 0).sum() / len(sample)) == pytest.approx(2)
    assert next(stream).shape == (256, 16)  # whole batches of the stream were taken, no more


def test_the_unit_of_the_rows_does_not_matter() -> None:
    def learnt(unit: float) -> SparseAutoencoder:
        stream = training_rows(TOY.open(), batch_size=256, seed=0)
        rows = [unit * next(stream) for _ in range(14)]
        candidate = Candidate(settings=BatchTopKSettings(k=2), d_sae=24, learning_rate=1e-2, seed=0)
        training = TrainingConfig(tokens=10 * 256, batch_size=256)
        (sae,) = learn([candidate], rows[4:], sample=torch.cat(rows[:4]), training=training)
        return sae

    small, large = learnt(1.0), learnt(64.0)  # a power of two: the same digits

    torch.testing.assert_close(small.W_dec, large.W_dec)
    torch.testing.assert_close(64 * small.b_dec, large.b_dec)


def test_a_table_has_a_line_for_each_kind_and_rate() -> None:
    preset = replace(TOY, samples=2 * 256)
    rates = [replace(entrant("topk"), learning_rate=rate) for rate in (1e-2, 3e-3)]

    table = findings_table(study(preset, rates, seeds=[0, 1]))

    assert table.row_count == 2
    assert list(table.columns[1].cells) == ["0.01", "0.003"]
    assert all("±" in str(cell) for cell in table.columns[2].cells)
    assert table.title == "SAEs of 24 features, 512 samples, seeds: 2, true L0: 1.45"


def test_the_command_prints_a_table_and_writes_the_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores.json"
    arguments = ["known-truth", "--preset", "toy", "--samples", "2048", "--l0", "4", "--seeds", "2"]

    status = main([*arguments, "--architectures", "topk", "--output", str(output)])

    assert status == 0
    assert "topk" in capsys.readouterr().out
    written = json.loads(output.read_text())
    assert written["preset"] == "toy"
    assert [found["seed"] for found in written["findings"]] == [0, 1]
    assert {"k": 4, "samples": 2048}.items() <= written["findings"][0].items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "100"], "samples: must be at least a batch of 1024, found 100"),
        (["--l0", "128"], "k: must be below d_sae = 128, found 128"),
        (["--seeds", "0"], "seeds: must be at least 1, found 0"),
        (["--learning-rates", "0"], "learning_rates: must be above 0, found 0"),
        (["--device", "quantum"], "device: "),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["known-truth", "--preset", "toy", "--architectures", "topk", *arguments])

    assert status == 1
    assert message in capsys.readouterr().err


def test_every_preset_has_settings_for_every_architecture() -> None:
    for preset in PRESETS.values():
        for name in SETTINGS:
            assert isinstance(preset.settings(name), SETTINGS[name])


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(ConfigError, match=r"architecture: must be one of standard, .*, found 'topless'"):
        TOY.settings("topless")
