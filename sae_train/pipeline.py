"""The commands: run (harvest, train, export), export (a finished run again), evaluate and label (folders)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sae_train.activations.activation_cache import Split
from sae_train.activations.activation_scale import ActivationScale, estimate_scale
from sae_train.activations.harvest import harvest
from sae_train.activations.run_corpus import block_stream, open_cache
from sae_train.config import Config, DataConfig
from sae_train.config_file import load_config
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import CorpusError
from sae_train.export.export import export_sae, measure, measure_in_passing
from sae_train.features.feature_pages import feature_pages
from sae_train.labels.label_folder import LabelWish, label_folder
from sae_train.ranks import ALONE, Ranks, joined_ranks
from sae_train.surroundings import Surroundings
from sae_train.training.checkpoint import CheckpointError
from sae_train.training.run_log import RunLog
from sae_train.training.run_setup import start_training
from sae_train.training.trainer import Trainer
from steerd.errors import ConfigError
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import SaeBundle, SaeMetadata, load_sae, save_notes

_SCALE_ROWS = 8192

CONFIG_COPY = "config.toml"
EXPORTED = "saes"


def run(config_path: Path) -> list[SaeMetadata]:
    """Harvest what the cache lacks, train from the newest checkpoint on, export to `OUTPUT/saes/NAME`.

    Under `torchrun` the processes share the harvest and the steps, and the first exports; the others return
    nothing.
    """
    config = load_config(config_path)
    with joined_ranks(config.host.device) as ranks, _surroundings(config, ranks) as around:
        if ranks.is_first:
            _keep_config(config_path, Path(config.output))
        _harvest("held_out", around, config.hook_points)
        _harvest("train", around, config.hook_points)
        trainer = _trainer(around, ranks)
        trainer.train(around.log)
        return _export_all(trainer, around) if ranks.is_first else []


def export(folder: Path) -> list[SaeMetadata]:
    """Export a run's newest checkpoint again; raises CheckpointError when the run is not finished."""
    config = dataclasses.replace(load_config(folder / CONFIG_COPY), output=str(folder))  # it may have moved
    with _surroundings(config, ALONE) as around:
        trainer = _trainer(around, ALONE)
        if not trainer.is_finished:
            raise CheckpointError(f"{folder}: the run is not finished; `sae-train run` goes on with it")
        return _export_all(trainer, around)


def evaluate(folder: Path, config_path: Path) -> dict[str, Any]:  # Any: JSON values
    """Measure an SAE folder on the configuration's held-out tokens, harvesting them if need be."""
    with _around_folder(folder, config_path) as (bundle, scale, around):
        hook_point = HookPoint.parse(bundle.metadata.hook_point)
        metrics = measure(bundle.sae, hook_point, scale, around).as_json()
        around.log.write("evaluation", sae=folder.name, metrics=metrics)
    return metrics


def label(folder: Path, config_path: Path, wish: LabelWish) -> dict[str, Any]:  # Any: JSON values
    """Test the labels of an SAE folder on such tokens, and note in the folder what was found.

    Features that nobody has described yet, such as an imported SAE's, are described first, from training
    tokens.
    """
    with _around_folder(folder, config_path) as (bundle, scale, around):
        if bundle.notes is None or bundle.statistics is None:
            bundle = _described(folder, bundle, scale, around)
        summary = label_folder(folder, bundle, scale, around, wish)
        around.log.write("labels", sae=folder.name, summary=summary)
    return summary


def _described(folder: Path, bundle: SaeBundle, scale: ActivationScale, around: Surroundings) -> SaeBundle:
    """Write statistics and notes of all features into the folder."""
    hook_point = HookPoint.parse(bundle.metadata.hook_point)
    tokens = around.config.evaluation.statistics_tokens
    _harvest("train", around, (hook_point,), tokens=tokens)
    stage = around.log.stage("features", tokens)
    statistics, notes = feature_pages(
        bundle.sae, around.host, around.cache, hook_point, scale, tokens=tokens, on_tokens=stage.advance
    )
    save_notes(folder, notes, statistics)
    return dataclasses.replace(bundle, statistics=statistics, notes=notes)


@contextmanager
def _around_folder(
    folder: Path, config_path: Path
) -> Iterator[tuple[SaeBundle, ActivationScale, Surroundings]]:
    """An SAE folder among held-out activations of its hook point."""
    config = load_config(config_path)
    bundle = load_sae(folder)
    with _surroundings(config, ALONE) as around:
        if bundle.metadata.d_model != around.host.d_model:
            raise ConfigError(
                f"host.name: {around.host.name} has d_model {around.host.d_model}, "
                f"but {folder} was trained at {bundle.metadata.d_model}"
            )
        hook_point = HookPoint.parse(bundle.metadata.hook_point)
        _harvest("held_out", around, (hook_point,))
        yield bundle, _scale(bundle, hook_point, around), around


@contextmanager
def _surroundings(config: Config, ranks: Ranks) -> Iterator[Surroundings]:
    host = HostModel.load(config.host.name, dtype=config.host.dtype, device=config.host.device)
    for hook_point in config.hook_points:
        host.check_hook_point(hook_point)
    cache = open_cache(config.data, host, seed=config.seed)
    with RunLog(Path(config.output) / "log.jsonl", active=ranks.is_first) as log:
        yield Surroundings(config=config, cache=cache, host=host, log=log)


def _harvest(
    split: Split, around: Surroundings, hook_points: tuple[HookPoint, ...], *, tokens: int | None = None
) -> None:
    """Fill the cache up to so many tokens, by default as many as are configured."""
    data, log = around.config.data, around.log
    wanted = _configured_tokens(split, data) if tokens is None else tokens
    counts = CorpusCounts()
    stage = log.stage("harvest" if split == "train" else "held out", wanted)
    harvest(
        around.cache,
        split,
        hook_points,
        host=around.host,
        blocks=block_stream(data, around.host.tokenizer, split, seed=around.config.seed, counts=counts),
        counts=counts,
        tokens=wanted,
        batch_tokens=data.batch_tokens,
        shard_tokens=data.shard_tokens,
        on_tokens=stage.advance,
    )
    found = around.cache.kept_tokens(split, hook_points, wanted)
    corpus = around.cache.corpus_counts(split, hook_points, wanted)
    log.write("harvest", split=split, tokens=found, corpus=corpus)
    if found == 0 and wanted > 0:
        words = "training" if split == "train" else "held-out"
        raise CorpusError(
            f"data.sources: no {words} tokens: the files hold too few documents "
            f"for a data.held_out_share of {data.held_out_share}"
        )


def _configured_tokens(split: Split, data: DataConfig) -> int:
    if split == "held_out":
        return data.held_out_tokens
    return data.tokens if data.cached_tokens is None else min(data.tokens, data.cached_tokens)


def _trainer(around: Surroundings, ranks: Ranks) -> Trainer:
    return start_training(
        around.config,
        around.training_data(ranks),
        special_token_ids=around.host.special_token_ids,
        device=around.host.device,
        evaluate=partial(measure_in_passing, around) if ranks.is_first else None,
    )


def _export_all(trainer: Trainer, around: Surroundings) -> list[SaeMetadata]:
    folder = Path(around.config.output) / EXPORTED
    return [export_sae(folder / trained.config.name, trained, around) for trained in trainer.trained()]


def _keep_config(config_path: Path, folder: Path) -> None:
    """Leave the run's configuration with the run, for `export`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_COPY).write_text(config_path.read_text(encoding="utf-8"), encoding="utf-8")


def _scale(bundle: SaeBundle, hook_point: HookPoint, around: Surroundings) -> ActivationScale:
    """What the SAE's training measured, or, where nothing says it, what held-out rows have."""
    median = bundle.metadata.provenance.get("median_resid_norm")
    outlier_norm = around.config.training.outlier_norm
    if isinstance(median, float):
        return ActivationScale(median_norm=median, outlier_limit=median * outlier_norm, scale=1.0)
    shard = next(around.cache.shards("held_out", (hook_point,)))
    rows = np.flatnonzero(shard.keep)[:_SCALE_ROWS]
    return estimate_scale(shard.read(hook_point, rows), outlier_norm=outlier_norm)
