"""The run's one TOML file: read strictly, checked, every mistake named with its key, bound and value."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sae_train.architectures.catalogue import SETTINGS, check_settings
from sae_train.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    ExportConfig,
    HostConfig,
    SaeConfig,
    TrainingConfig,
)
from sae_train.corpus.source import check_source
from sae_train.toml_tables import check_bounds, read_table
from steerd.errors import ConfigError
from steerd.host.hook_point import HookPoint


def load_config(path: Path) -> Config:
    """Read a TOML file; raises ConfigError naming the key, the bound and the value."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return parse_config(table)


def parse_config(table: dict[str, Any]) -> Config:  # Any: what TOML may hold
    """Turn parsed TOML into a checked Config; raises ConfigError."""
    run = read_table(_RunTable, table, "", also=frozenset({"saes"}))
    config = Config(
        output=run.output,
        seed=run.seed,
        host=run.host,
        saes=_saes(table.get("saes"), run.seed),
        data=run.data,
        training=run.training,
        evaluation=run.evaluation,
        export=run.export,
    )
    _check(config)
    return config


@dataclass(frozen=True, kw_only=True, slots=True)
class _RunTable:
    """The file's top level without its SAEs."""

    output: str
    seed: int = 0
    host: HostConfig = field(default_factory=HostConfig)
    data: DataConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class _SaeTable:
    """A `[[saes]]` table without its architecture's settings; its defaults are the trainer's."""

    name: str = "sae"
    hook_point: str
    architecture: str = "batch_topk"
    d_sae: int = 4608
    learning_rate: float = 3e-3
    seed: int | None = None
    weights_dtype: Literal["float32", "bfloat16"] = "float32"


def _saes(tables: Any, seed: int) -> tuple[SaeConfig, ...]:  # Any: what TOML may hold
    if not isinstance(tables, list) or not tables:
        raise ConfigError(f"saes: must be a list of at least one table ([[saes]]), found {tables!r}")
    saes = tuple(_sae(table, f"saes[{index}].", seed) for index, table in enumerate(tables))
    for index, sae in enumerate(saes):
        if sae.name in {other.name for other in saes[:index]}:
            raise ConfigError(f"saes[{index}].name: must differ from the others', found {sae.name!r} again")
    return saes


def _sae(table: Any, where: str, seed: int) -> SaeConfig:  # Any: what TOML may hold
    architecture = table.get("architecture", "batch_topk") if isinstance(table, dict) else None
    settings_class = SETTINGS.get(architecture) if isinstance(architecture, str) else None
    if architecture is not None and settings_class is None:
        known = ", ".join(SETTINGS)
        raise ConfigError(f"{where}architecture: must be one of {known}, found {architecture!r}")
    if settings_class is None:
        raise ConfigError(f"{where.rstrip('.')}: must be a table, found {table!r}")
    settings_keys = frozenset(entry.name for entry in dataclasses.fields(settings_class))
    own = read_table(_SaeTable, table, where, also=settings_keys)
    chosen = {key: value for key, value in table.items() if key in settings_keys}
    settings = read_table(settings_class, chosen, where)
    check_bounds(own, where, _SAE_BOUNDS)
    try:
        check_settings(settings, own.d_sae)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error
    if not _NAME.fullmatch(own.name):
        raise ConfigError(f"{where}name: must be letters, digits, '.', '_' and '-', found {own.name!r}")
    return SaeConfig(
        name=own.name,
        hook_point=HookPoint.parse(own.hook_point),
        d_sae=own.d_sae,
        architecture=own.architecture,
        settings=settings,
        learning_rate=own.learning_rate,
        seed=seed if own.seed is None else own.seed,
        weights_dtype=own.weights_dtype,
    )


def _check(config: Config) -> None:
    check_bounds(config.data, "data.", _DATA_BOUNDS)
    check_bounds(config.training, "training.", _TRAINING_BOUNDS)
    check_bounds(config.evaluation, "evaluation.", _EVALUATION_BOUNDS)
    if not config.data.sources:
        raise ConfigError("data.sources: at least one source is needed, found none")
    for index, source in enumerate(config.data.sources):
        check_source(source, f"data.sources[{index}].")
    cached = config.data.cached_tokens
    needed = min(config.evaluation.statistics_tokens, config.data.tokens)
    if cached is not None and cached < needed:
        bound = f"evaluation.statistics_tokens = {needed}, which are read from the cache"
        raise ConfigError(f"data.cached_tokens: must be at least {bound}, found {cached}")
    batch = config.training.batch_size
    if config.training.buffer_rows < 2 * batch:
        rows = config.training.buffer_rows
        raise ConfigError(f"training.buffer_rows: must be at least two batches ({2 * batch}), found {rows}")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COUNT = (1, 1e15)
_SAE_BOUNDS = {"d_sae": (2, 2**24), "learning_rate": (1e-12, 10), "seed": (0, 2**63 - 1)}
_DATA_BOUNDS = {
    "tokens": _COUNT,
    "cached_tokens": (0, 1e15),
    "held_out_tokens": _COUNT,
    "held_out_share": (1e-6, 0.9),
    "context": (2, 2**20),
    "document_tokens": (2, 1e15),
    "shuffle_window": _COUNT,
    "batch_tokens": (2, 1e15),
    "shard_tokens": _COUNT,
}
_TRAINING_BOUNDS = {
    "tokens": _COUNT,
    "batch_size": (1, 2**24),
    "warm_up_share": (0, 1),
    "decay_share": (0, 1),
    "gradient_clip": (1e-9, 1e9),
    "dead_window_tokens": _COUNT,
    "special_token_weight": (0, 1e6),
    "outlier_norm": (1, 1e9),
    "buffer_rows": (2, 1e15),
    "log_every": _COUNT,
    "checkpoint_every": _COUNT,
}
_EVALUATION_BOUNDS = {
    "every": _COUNT,
    "every_tokens": _COUNT,
    "cross_entropy_tokens": _COUNT,
    "batch_tokens": (2, 1e15),
    "statistics_tokens": _COUNT,
}
