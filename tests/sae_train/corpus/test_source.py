from __future__ import annotations

from typing import Any

import pytest

from sae_train.corpus.source import SourceConfig, check_source
from steerd.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 0.0}, "data.sources[2].share: must be above 0, found 0.0"),
        ({"share": float("nan")}, "share: must be above 0, found nan"),
        ({"share": float("inf")}, "share: must be finite, found inf"),
        ({"path": "a.csv"}, "path: must end in .jsonl, .jsonl.zst, .txt, .parquet or begin with hf:"),
        ({"path": "hf:/"}, "path: must name a data set, as hf:OWNER/NAME does, found 'hf:/'"),
        ({"hub_split": "test"}, "hub_split: only beside a path hf:OWNER/NAME, found 'test'"),
        ({"hub_revision": "v1"}, "hub_revision: only beside"),
        ({"hub_config": "x"}, "hub_config: only beside"),
        ({"text_column": "t", "messages_column": "m"}, "text_column: must be empty beside a messages_column"),
        ({"text_column": "t", "mode": "fast"}, "text_column: must be empty beside mode 'fast'"),
    ],
)
def test_what_no_source_can_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_source(SourceConfig(**({"path": "a.jsonl", "mode": "block"} | values)), "data.sources[2].")

    assert str(caught.value).startswith("data.sources[2].")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"path": "a.parquet", "text_column": "body"},
        {"path": "hf:owner/name", "hub_config": "c", "hub_split": "test", "hub_revision": "v1"},
        {"path": "a.txt"},
    ],
)
def test_what_a_source_can_be_is_let_through(values: dict[str, Any]) -> None:
    check_source(SourceConfig(**({"mode": "block"} | values)), "")
