"""Any value of a wrong type or size, anywhere in a configuration, is an SaeFileError or does no harm."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_train.formats.foreign_sae import fold
from sae_train.formats.import_sae import choose_layout
from sae_train.formats.layout import ImportOptions
from sae_train.formats.source import Source
from steerd.errors import SteerdError
from tests.sae_train.formats import layout_files, saelens_files
from tests.sae_train.formats.random_weights import Written

WRONG: tuple[Any, ...] = (None, True, -1, 10**30, "x", [[]], {"in": []})

CONFIGS: list[tuple[Callable[[Path], Written], str]] = [
    (saelens_files.saelens_standard, "cfg.json"),
    (saelens_files.saelens_batch_topk_checkpoint, "cfg.json"),
    (saelens_files.saelens_batch_topk_checkpoint, "activation_scaler.json"),
    (saelens_files.saelens_old_topk, "cfg.json"),
    (saelens_files.saelens_old_finetuned, "cfg.json"),
    (layout_files.gemma_scope_2, "config.json"),
    (layout_files.sparsify, "cfg.json"),
    (layout_files.sparsify, "../config.json"),
    (layout_files.dl_topk, "config.json"),
    (layout_files.llama_scope, "hyperparams.json"),
]


def places(record: Any) -> Iterator[tuple[str, ...]]:
    """The path to every value in a JSON object."""
    for key, value in record.items() if isinstance(record, dict) else ():
        yield (key,)
        yield from ((key, *rest) for rest in places(value))


def replaced(record: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(record)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def read(written: Written) -> None:
    source = Source(written.path)
    fold(choose_layout(source).read(source, ImportOptions(**written.told)))


@pytest.mark.parametrize(("write", "name"), CONFIGS, ids=lambda part: getattr(part, "__name__", part))
def test_wrong_values_are_refused_or_harmless(tmp_path: Path, write: Callable[[Path], Written], name: str):
    written = write(tmp_path / "source")
    config = written.path / name
    record, refused = json.loads(config.read_text()), 0
    read(written)

    for place in places(record):
        for value in WRONG:
            config.write_text(json.dumps(replaced(record, place, value)))
            try:
                read(written)
            except SteerdError as error:
                refused += str(tmp_path) in str(error)

    assert refused >= len(WRONG) // 2
