"""The three commands: run (harvest, train, export), export (a finished run), evaluate (an SAE folder)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_train.activations.activation_cache import ActivationCache, Split
from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.harvest import harvest_split, open_cache
from sae_train.config import Config, load_config
from sae_train.corpus.documents import CorpusError
from sae_train.export.export import export_sae, measure
from sae_train.training.checkpoint import CheckpointError
from sae_train.training.run_log import RunLog
from sae_train.training.trainer import Trainer
from steerd.errors import ConfigError, SaeFileError
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import SaeBundle, SaeMetadata, load_sae

CONFIG_COPY = "config.toml"
EXPORTED = "sae"


def run(config_path: Path) -> SaeMetadata:
    """Harvest what the cache lacks, train from the newest checkpoint on, export to `OUTPUT/sae`."""
    config = load_config(config_path)
    folder = Path(config.output)
    host = _load_host(config)
    with RunLog(folder / "log.jsonl") as log:
        cache = open_cache(config, host)
        for split in ("held_out", "train"):
            _harvest(split, cache, config, host, log)
        trainer = Trainer(config, cache, folder)
        _keep_config(config_path, folder)
        trained = trainer.train(log)
        return export_sae(folder / EXPORTED, trained, config=config, cache=cache, host=host, log=log)


def export(folder: Path) -> SaeMetadata:
    """Export a run's newest checkpoint again; raises CheckpointError when the run is not finished."""
    config = load_config(folder / CONFIG_COPY)
    host = _load_host(config)
    cache = open_cache(config, host)
    trainer = Trainer(config, cache, folder)
    if not trainer.is_finished:
        raise CheckpointError(f"{folder}: the run is not finished; `sae-train run` goes on with it")
    with RunLog(folder / "log.jsonl") as log:
        trained = trainer.result()
        return export_sae(folder / EXPORTED, trained, config=config, cache=cache, host=host, log=log)


def evaluate(folder: Path, config_path: Path) -> dict[str, Any]:  # Any: JSON values
    """Measure an SAE folder on the configuration's held-out tokens, harvesting them if need be."""
    config = load_config(config_path)
    bundle = load_sae(folder)
    if bundle.metadata.hook_point != config.sae.hook_point:
        raise ConfigError(
            f"sae.hook_point: {config.sae.hook_point} in {config_path}, "
            f"but {folder} was trained at {bundle.metadata.hook_point}"
        )
    host = _load_host(config)
    scale = _recorded_scale(bundle, config, folder)
    with RunLog(Path(config.output) / "evaluate.jsonl") as log:
        cache = open_cache(config, host)
        _harvest("held_out", cache, config, host, log)
        metrics = measure(bundle.sae, scale, config=config, cache=cache, host=host, log=log).as_json()
        log.write("evaluation", folder=folder.name, **metrics)
    return metrics


def _keep_config(config_path: Path, folder: Path) -> None:
    """Leave the run's configuration with the run, for `export`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_COPY).write_text(config_path.read_text(encoding="utf-8"), encoding="utf-8")


def _load_host(config: Config) -> HostModel:
    return HostModel.load(config.host.name, dtype=config.host.dtype, device=config.host.device)


def _harvest(split: Split, cache: ActivationCache, config: Config, host: HostModel, log: RunLog) -> None:
    wanted = config.data.tokens if split == "train" else config.data.held_out_tokens
    stage = log.stage("harvest" if split == "train" else "held out", wanted)
    stage.found(cache.kept_tokens(split))
    harvest_split(cache, split, config=config, host=host, on_tokens=stage.advance)
    found = cache.kept_tokens(split)
    log.write("harvest", split=split, tokens=found)
    if found == 0:
        words = "training" if split == "train" else "held-out"
        raise CorpusError(
            f"data.sources: no {words} tokens: the files hold too few documents "
            f"for a data.held_out_share of {config.data.held_out_share}"
        )


def _recorded_scale(bundle: SaeBundle, config: Config, folder: Path) -> ActivationScale:
    median = bundle.metadata.provenance.get("median_resid_norm")
    if not isinstance(median, float):
        raise SaeFileError(f"{folder}: steerd.json: median_resid_norm must be a number, found {median!r}")
    return ActivationScale(median_norm=median, outlier_limit=median * config.training.outlier_norm, scale=1.0)
