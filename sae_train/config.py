"""The run's configuration: one strict TOML file, read once into frozen dataclasses."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from steerd.errors import ConfigError
from steerd.host.hook_point import HookPoint


@dataclass(frozen=True, kw_only=True, slots=True)
class HostConfig:
    """The host whose activations are learnt."""

    name: str = "smollm2-135m-instruct"
    """Alias, local folder or hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeConfig:
    """What is trained."""

    hook_point: str
    """Printed form, such as blocks.14.hook_resid_post."""
    architecture: Literal["batch_topk"] = "batch_topk"
    d_sae: int = 4608
    """Number of features."""
    k: int = 64
    """Mean number of active features a token."""
    weights_dtype: Literal["float32", "bfloat16"] = "float32"
    """How W_enc and W_dec are stored; every metric is of the stored weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """One corpus file and how much of the run comes from it."""

    path: str
    """.jsonl, .jsonl.zst or .txt; relative to the current directory."""
    mode: Literal["fast", "block"]
    """fast: each conversation alone through the chat template; block: joined and cut."""
    share: float = 1.0
    """Part of the tokens, relative to the other sources' shares."""
    licence: str = ""
    """Where the documents come from and under which licences; travels with the SAE in steerd.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """From corpus files to cached activations."""

    sources: tuple[SourceConfig, ...]
    cache: str
    """Folder for the harvested activations (2 bytes a number); found again, it is used as it is."""
    tokens: int
    """Distinct training tokens to harvest."""
    held_out_tokens: int = 100_000
    """Tokens from documents that are never trained on."""
    held_out_share: float = 0.05
    """Share of documents set aside as held out."""
    context: int = 512
    """Longest sequence in tokens."""
    document_tokens: int = 1024
    """In block mode, tokens used of one document."""
    shuffle_window: int = 100_000
    """Documents among which the order is drawn."""
    batch_tokens: int = 4096
    """Padded tokens a host forward sees at once."""
    shard_blocks: int = 256
    """Sequences a shard holds; what a cut-off harvest loses at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """The optimisation; defaults are a short CPU run's."""

    tokens: int
    """Tokens to train on; more than were harvested means several passes."""
    batch_size: int = 4096
    """Tokens a step."""
    learning_rate: float = 2e-3
    warm_up_share: float = 0.05
    decay_share: float = 0.2
    """Part of the run at its end over which the learning rate falls to zero."""
    gradient_clip: float = 1.0
    auxk_alpha: float = 1 / 32
    """Weight of the loss that revives dead features."""
    dead_window_tokens: int = 200_000
    """A feature that did not fire for so many tokens counts as dead."""
    outlier_norm: float = 10.0
    """Rows longer than this multiple of the median norm are dropped (attention sinks)."""
    buffer_rows: int = 262_144
    """Rows the mixing buffer holds."""
    log_every: int = 20
    """Steps between lines of the log."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the newest two are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """How much is measured after training."""

    cross_entropy_tokens: int = 30_000
    """Held-out tokens that pass the whole host three times."""
    batch_tokens: int = 2048
    """Padded tokens the whole host sees at once (its logits are large)."""
    statistics_tokens: int = 1_000_000
    """Training tokens from which feature statistics, labels and contexts are taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Words that travel with the SAE in steerd.json."""

    licence: str = ""
    """Under which licence the weights are given."""
    notes: str = ""
    """Anything a reader should know, such as the licences of the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A whole run."""

    output: str
    """Folder of the run: log, checkpoints, exported SAE."""
    seed: int = 0
    host: HostConfig = HostConfig()
    sae: SaeConfig
    data: DataConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()


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
    config = _section(Config, table, "")
    assert isinstance(config, Config)
    _check(config)
    return config


# Any: what TOML may hold, and whichever section's dataclass.
def _section(cls: type, table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{where.rstrip('.')}: must be a table, found {table!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in table:
        if key not in fields:
            raise ConfigError(f"{where}{key}: unknown key; known here: {', '.join(fields)}")
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    for name in required:
        if name not in table:
            raise ConfigError(f"{where}{name}: missing")
    return cls(**{key: _value(hints[key], value, where + key) for key, value in table.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _section(hint, value, f"{where}.")
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: must be a list of tables, found {value!r}")
        item = typing.get_args(hint)[0]
        return tuple(_value(item, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where}: must be one of {', '.join(typing.get_args(hint))}, found {value!r}")
        return value
    accepted: type | types.UnionType = int | float if hint is float else hint
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise ConfigError(f"{where}: must be {_TYPE_WORDS[hint]}, found {value!r}")
    return hint(value)


_TYPE_WORDS = {int: "an integer", float: "a number", str: "a string"}


def _check(config: Config) -> None:
    HookPoint.parse(config.sae.hook_point)
    if not config.data.sources:
        raise ConfigError("data.sources: at least one source is needed, found none")
    for section, name, lowest, highest in _BOUNDS:
        value = getattr(getattr(config, section), name)
        if not lowest <= value <= highest:
            raise ConfigError(f"{section}.{name}: must be from {lowest} to {highest:g}, found {value}")
    for index, source in enumerate(config.data.sources):
        if not source.share > 0:
            raise ConfigError(f"data.sources[{index}].share: must be above 0, found {source.share}")
    if config.sae.k >= config.sae.d_sae:
        raise ConfigError(f"sae.k: must be below sae.d_sae = {config.sae.d_sae}, found {config.sae.k}")
    if config.training.buffer_rows < 2 * config.training.batch_size:
        bound = f"two batches ({2 * config.training.batch_size})"
        raise ConfigError(
            f"training.buffer_rows: must be at least {bound}, found {config.training.buffer_rows}"
        )


_ANY_COUNT = 1e15
_BOUNDS: tuple[tuple[str, str, float, float], ...] = (
    ("sae", "d_sae", 2, 2**24),
    ("sae", "k", 1, 2**24),
    ("data", "tokens", 1, _ANY_COUNT),
    ("data", "held_out_tokens", 1, _ANY_COUNT),
    ("data", "held_out_share", 1e-6, 0.9),
    ("data", "context", 2, 2**20),
    ("data", "document_tokens", 2, _ANY_COUNT),
    ("data", "shuffle_window", 1, _ANY_COUNT),
    ("data", "batch_tokens", 2, _ANY_COUNT),
    ("data", "shard_blocks", 1, _ANY_COUNT),
    ("training", "tokens", 1, _ANY_COUNT),
    ("training", "batch_size", 1, 2**24),
    ("training", "learning_rate", 1e-12, 10),
    ("training", "warm_up_share", 0, 1),
    ("training", "decay_share", 0, 1),
    ("training", "gradient_clip", 1e-9, 1e9),
    ("training", "auxk_alpha", 0, 10),
    ("training", "dead_window_tokens", 1, _ANY_COUNT),
    ("training", "outlier_norm", 1.0, 1e9),
    ("training", "buffer_rows", 2, _ANY_COUNT),
    ("training", "log_every", 1, _ANY_COUNT),
    ("training", "checkpoint_every", 1, _ANY_COUNT),
    ("evaluation", "cross_entropy_tokens", 1, _ANY_COUNT),
    ("evaluation", "batch_tokens", 2, _ANY_COUNT),
    ("evaluation", "statistics_tokens", 1, _ANY_COUNT),
)
