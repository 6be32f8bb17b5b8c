from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_train.architectures.batch_topk import BatchTopKSettings
from sae_train.architectures.matryoshka import MatryoshkaSettings
from sae_train.config_file import load_config, parse_config
from steerd.errors import SteerdError

VALID: dict[str, Any] = {
    "output": "run",
    "saes": [{"hook_point": "blocks.14.hook_resid_post", "k": 32}],
    "data": {"sources": [{"path": "a.txt", "mode": "block"}], "cache": "cache", "tokens": 1000},
    "training": {"tokens": 1000},
}


def with_sae(*tables: dict[str, Any]) -> dict[str, Any]:
    return VALID | {
        "saes": [{"hook_point": "blocks.14.hook_resid_post", "k": 32} | table for table in tables]
    }


def changed(section: str, **values: Any) -> dict[str, Any]:
    return VALID | {section: VALID.get(section, {}) | values}


def test_defaults_fill_what_is_not_said() -> None:
    config = parse_config(VALID)

    assert config.host.name == "smollm2-135m-instruct"
    assert config.training.batch_size == 4096
    assert config.data.sources[0].share == 1.0
    assert config.saes[0].settings == BatchTopKSettings(k=32)
    assert config.saes[0].seed == config.seed
    assert config.saes[0].learning_rate == 3e-3


def test_a_run_may_train_several_saes_each_with_its_architectures_settings() -> None:
    config = parse_config(
        with_sae(
            {"name": "a", "hook_point": "blocks.9.hook_resid_post", "seed": 7},
            {"name": "b", "architecture": "matryoshka_batch_topk", "widths": [512, 4608]},
        )
    )

    assert [str(point) for point in config.hook_points] == [
        "blocks.9.hook_resid_post",
        "blocks.14.hook_resid_post",
    ]
    assert config.saes[0].seed == 7
    assert config.saes[1].settings == MatryoshkaSettings(k=32, widths=(512, 4608))


def test_the_dead_window_is_scaled_to_the_run() -> None:
    assert parse_config(changed("training", tokens=10_000)).training.dead_after_tokens == 20 * 4096
    assert parse_config(changed("training", tokens=10_000_000)).training.dead_after_tokens == 200_000
    assert parse_config(changed("training", tokens=10**12)).training.dead_after_tokens == 10_000_000
    assert parse_config(changed("training", dead_window_tokens=5)).training.dead_after_tokens == 5


def test_an_integer_may_stand_for_a_number() -> None:
    assert parse_config(changed("training", gradient_clip=2)).training.gradient_clip == 2.0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            VALID | {"sede": 1},
            "sede: unknown key; known here: output, seed, host, data, training, eval",
        ),
        (changed("training", lr=1.0), "training.lr: unknown key"),
        (
            changed("data", sources=[{"path": "a", "mode": "block", "weight": 1}]),
            "data.sources[0].weight: unknown",
        ),
        (changed("data", sources=[]), "data.sources: at least one source"),
        (changed("data", sources="a.txt"), "data.sources: must be a list of tables"),
        (
            changed("data", sources=[{"path": "a", "mode": "slow"}]),
            "mode: must be one of fast, block, found 'slow'",
        ),
        (
            changed("data", sources=[{"path": "a", "mode": "fast", "share": 0}]),
            "share: must be above 0, found 0",
        ),
        ({key: VALID[key] for key in ("output", "saes", "data")}, "training: missing"),
        (VALID | {"training": 3}, "training: must be a table, found 3"),
        (with_sae({"k": "many"}), "saes[0].k: must be an integer, found 'many'"),
        (with_sae({"k": True}), "saes[0].k: must be an integer, found True"),
        (with_sae({}, {"name": "b", "k": 5000}), "saes[1].k: must be below d_sae = 4608, found 5000"),
        (with_sae({"hook_point": "layer 3"}), "layer 3"),
        (with_sae({}, {}), "saes[1].name: must differ from the others', found 'sae' again"),
        (with_sae({"name": "../x"}), "saes[0].name: must be letters, digits"),
        (with_sae({"architecture": "dense"}), "saes[0].architecture: must be one of standard, gated"),
        (with_sae({"architecture": "standard"}), "saes[0].k: unknown key; known here: name, hook_point"),
        (with_sae({"learning_rate": float("nan")}), "saes[0].learning_rate: must be from"),
        (VALID | {"saes": []}, "saes: must be a list of at least one table"),
        (VALID | {"saes": [3]}, "saes[0]: must be a table, found 3"),
        (changed("training", prefetch=1), "training.prefetch: must be true or false, found 1"),
        (changed("training", batch_size=0), "training.batch_size: must be from 1"),
        (changed("training", gradient_clip=float("nan")), "training.gradient_clip: must be from"),
        (changed("training", buffer_rows=100), "training.buffer_rows: must be at least two batches"),
        (
            changed("data", cached_tokens=999),
            "data.cached_tokens: must be at least evaluation.statistics_tok",
        ),
        (changed("data", held_out_share=1.0), "data.held_out_share: must be from"),
    ],
)
def test_mistakes_are_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(SteerdError) as caught:
        parse_config(table)

    assert message in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("output = ")

    for name in ("bad.toml", "absent.toml"):
        with pytest.raises(SteerdError, match=name):
            load_config(tmp_path / name)
