"""The run's configuration in frozen sections; `config_file` reads them from TOML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sae_train.architectures.catalogue import Settings
from sae_train.corpus.source import SourceConfig
from steerd.host.hook_point import HookPoint

_LONGEST_DEAD_WINDOW = 10_000_000  # OpenAI's (arXiv 2406.04093), for runs of billions of tokens
WARM_UP_SHARE = 0.05  # of a run, over which the learning rate rises, where nothing else is said


@dataclass(frozen=True, kw_only=True, slots=True)
class HostConfig:
    """The host whose activations are learnt."""

    name: str = "smollm2-135m-instruct"
    """Alias, local folder or hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeConfig:
    """One SAE of the run: a `[[saes]]` table, in which its architecture's settings stand beside the rest."""

    name: str
    """Name of its folder and in the log; each SAE of a run has its own."""
    hook_point: HookPoint
    d_sae: int
    """Number of features."""
    architecture: str
    settings: Settings
    """What the architecture asks for, such as k."""
    learning_rate: float
    """Highest rate of the schedule, 3e-3 when absent: with the gradient clip evening out its steps, a short
    run at that rate learns fast and leaves hardly a feature dead."""
    seed: int
    """Seed of its first weights."""
    weights_dtype: Literal["float32", "bfloat16"]
    """How W_enc and W_dec are stored; every metric is of the stored weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """From corpus files to activations."""

    sources: tuple[SourceConfig, ...]
    cache: str
    """Folder for the activations kept on disk (2 bytes a number); found again, it is used as it is."""
    tokens: int
    """Distinct training tokens."""
    cached_tokens: int | None = None
    """How many of `tokens` are kept on disk, all when absent; the rest comes from the host in each pass."""
    held_out_tokens: int = 100_000
    """Tokens from documents that are never trained on."""
    held_out_share: float = 0.05
    """Share of documents set aside as held out."""
    context: int = 8192
    """Longest sequence in tokens: conversations are truncated there, joined text is cut into blocks of it.
    A host that has fewer positions needs a smaller one."""
    document_tokens: int = 1024
    """In block mode, tokens used of one document."""
    shuffle_window: int = 100_000
    """Documents among which the order is drawn."""
    batch_tokens: int = 4096
    """Padded tokens a host forward sees at once."""
    shard_tokens: int = 65_536
    """Most tokens a shard holds: what a cut-off harvest loses at most, and what passes by live at a time.
    A cache begins with smaller ones, so that a harvest ends soon after the tokens that were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """The optimisation, the same for every SAE of the run; defaults are a short CPU run's."""

    tokens: int
    """Tokens to train on; more than there are distinct ones means several passes."""
    batch_size: int = 4096
    """Tokens a step, of all processes together."""
    warm_up_share: float = WARM_UP_SHARE
    """Part of the run at its start over which the learning rate rises to its highest."""
    decay_share: float = 0.2
    """Part of the run at its end over which the learning rate falls to zero."""
    gradient_clip: float = 1.0
    """Largest norm of a step's gradient, of the squared error summed over d_model (published recipes' count).
    At 1 nearly every step is cut to it, which evens the steps out and lets a run take a higher rate."""
    dead_window_tokens: int | None = None
    """A feature that did not fire for so many tokens counts as dead; when absent, 2 % of the run's tokens,
    at least 20 steps' and at most ten million."""
    special_token_weight: float = 1.0
    """How much a special token's error counts in the loss, where any other token's counts 1."""
    outlier_norm: float = 10.0
    """Rows longer than this multiple of the median norm are dropped (attention sinks)."""
    buffer_rows: int = 262_144
    """Rows the mixing buffer holds."""
    autocast: Literal["none", "bfloat16"] = "none"
    """Precision of the large products; parameters, thresholds and sums stay float32."""
    prefetch: bool = False
    """Run the host in a thread of its own, one chunk ahead; pays on a GPU."""
    log_every: int = 20
    """Steps between lines of the log."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the newest two are kept."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return max(1, self.tokens // self.batch_size)

    @property
    def dead_after_tokens(self) -> int:
        """The dead window, scaled to the run where none is given."""
        if self.dead_window_tokens is not None:
            return self.dead_window_tokens
        return max(20 * self.batch_size, min(_LONGEST_DEAD_WINDOW, self.tokens // 50))


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """How much is measured, and when."""

    every: int | None = None
    """Steps between evaluations on held-out tokens while training; only at the end when absent."""
    every_tokens: int = 20_000
    """Held-out tokens of such an evaluation; no host runs for it."""
    cross_entropy_tokens: int = 30_000
    """Held-out tokens that pass the whole host, at the end."""
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
    """Folder of the run: log, checkpoints, exported SAEs."""
    seed: int
    host: HostConfig
    saes: tuple[SaeConfig, ...]
    data: DataConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    export: ExportConfig

    @property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Where the SAEs read, each place once, in the order of the host's forward."""
        return tuple(sorted({sae.hook_point for sae in self.saes}))
