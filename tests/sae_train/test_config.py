from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_train.config import load_config, parse_config
from steerd.errors import SteerdError

VALID: dict[str, Any] = {
    "output": "run",
    "sae": {"hook_point": "blocks.14.hook_resid_post"},
    "data": {"sources": [{"path": "a.txt", "mode": "block"}], "cache": "cache", "tokens": 1000},
    "training": {"tokens": 1000},
}


def changed(section: str, **values: Any) -> dict[str, Any]:
    return VALID | {section: VALID.get(section, {}) | values}


def test_defaults_fill_what_is_not_said() -> None:
    config = parse_config(VALID)

    assert config.host.name == "smollm2-135m-instruct"
    assert config.training.batch_size == 4096
    assert config.data.sources[0].share == 1.0


def test_an_integer_may_stand_for_a_number() -> None:
    assert parse_config(changed("training", gradient_clip=2)).training.gradient_clip == 2.0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (VALID | {"sede": 1}, "sede: unknown key; known here: output, seed"),
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
        ({"output": "run", "sae": VALID["sae"], "data": VALID["data"]}, "training: missing"),
        (VALID | {"training": 3}, "training: must be a table, found 3"),
        (changed("sae", k="many"), "sae.k: must be an integer, found 'many'"),
        (changed("sae", k=True), "sae.k: must be an integer, found True"),
        (changed("sae", k=5000), "sae.k: must be below sae.d_sae = 4608, found 5000"),
        (changed("sae", hook_point="layer 3"), "layer 3"),
        (changed("training", batch_size=0), "training.batch_size: must be from 1"),
        (changed("training", learning_rate=float("nan")), "training.learning_rate: must be from"),
        (changed("training", buffer_rows=100), "training.buffer_rows: must be at least two batches"),
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
