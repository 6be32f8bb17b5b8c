"""The systems whose training steps `sae_step` times: ours, and another library's in its own environment."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.line_process import LineProcess, line_process
from sae_train.architectures.batch_topk import BatchTopKSettings
from sae_train.architectures.catalogue import Settings, build_sae
from sae_train.architectures.gated import GatedSettings
from sae_train.architectures.jumprelu import JumpReLUSae, JumpReLUSettings
from sae_train.architectures.matryoshka import MatryoshkaSettings
from sae_train.architectures.standard import StandardSettings
from sae_train.architectures.topk import TopKSettings
from sae_train.architectures.trainable_sae import TrainableSae
from sae_train.config import TrainingConfig
from sae_train.training.sae_training import SaeTraining

PEER_SCRIPT = Path(__file__).parent / "sae_step_peer.py"
# So small that the sparsity stays as it is at the start, on all sides: that of a trained SAE.
LEARNING_RATE = 1e-6
_START_ROWS = 512  # from which the biases are taken that give a trained SAE's sparsity


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a system is to train; `sae_step_peer.py` reads the same fields."""

    architecture: str
    d_sae: int
    k: int
    """Active features a row: chosen, or what standard, gated and jumprelu start with."""
    widths: tuple[int, ...]
    """Prefixes of a matryoshka, the last being d_sae."""
    batch_size: int
    rows: str
    """An .npy file [rows, d_model] float32, scaled so that the mean squared norm is d_model."""
    threads: int
    options: dict[str, Any] = field(default_factory=dict)  # Any: a library's own settings
    """Nothing for ours."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of each step on the clock, and of all threads together."""

    seconds: Sequence[float]
    cpu_seconds: Sequence[float]


class StepSystem(Protocol):
    """A trainer that takes steps, one batch after another, when it is asked to."""

    def run(self, steps: int) -> StepTimes:
        """Take steps."""

    def l0(self) -> float:
        """Return the mean number of active features a row."""


class OwnSteps:
    """`SaeTraining.step`: forward, backward, constraints, clip, fused Adam, dead features."""

    def __init__(self, wish: Wish) -> None:
        torch.set_num_threads(wish.threads)
        self._rows = torch.from_numpy(np.load(wish.rows))  # [rows, d_model]
        self._batch_size = wish.batch_size
        self._l0 = 0.0
        generator = torch.Generator().manual_seed(0)
        b_dec = torch.zeros(self._rows.shape[1])
        sae = build_sae(own_settings(wish), len(b_dec), wish.d_sae, b_dec=b_dec, generator=generator)
        start_sparse(sae, self._rows[:_START_ROWS], wish)
        training = TrainingConfig(tokens=10**9, batch_size=wish.batch_size, dead_window_tokens=10**12)
        self._training = SaeTraining(sae, training, learning_rate=LEARNING_RATE)

    def run(self, steps: int) -> StepTimes:
        """Take steps."""
        seconds, cpu_seconds = [], []
        for _ in range(steps):
            start = self._training.steps % (len(self._rows) // self._batch_size) * self._batch_size
            x = self._rows[start : start + self._batch_size]
            started, cpu_started = time.perf_counter(), time.process_time()
            self._l0 = self._training.step(x).l0
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(time.process_time() - cpu_started)
        return StepTimes(seconds, cpu_seconds)

    def l0(self) -> float:
        """Return the last step's L0."""
        return self._l0


def own_settings(wish: Wish) -> Settings:
    """Return our settings of the wish's architecture."""
    settings: dict[str, Settings] = {
        "standard": StandardSettings(),
        "gated": GatedSettings(),
        "topk": TopKSettings(k=wish.k),
        "batch_topk": BatchTopKSettings(k=wish.k),
        "matryoshka_batch_topk": MatryoshkaSettings(k=wish.k, widths=wish.widths),
        "jumprelu": JumpReLUSettings(target_l0=wish.k),
    }
    return settings[wish.architecture]


@torch.no_grad()
def start_sparse(sae: TrainableSae, sample: Tensor, wish: Wish) -> None:
    """Give an SAE that chooses no k the bias or threshold with which k features a row are active."""
    if wish.architecture not in ("standard", "gated", "jumprelu"):
        return
    pre_acts = (sample @ sae.W_enc).flatten()
    bound = pre_acts.kthvalue(len(pre_acts) - wish.k * len(sample)).values
    if isinstance(sae, JumpReLUSae):
        sae.threshold.fill_(bound)
        sae.started.fill_(True)
    else:
        sae.b_enc.fill_(-bound)


class PeerProcess:
    """A library in a process of its own."""

    def __init__(self, process: LineProcess) -> None:
        self.ask = process.ask
        self.versions: dict[str, str] = {}

    def build(self, name: str, wish: Wish) -> PeerSteps:
        """Make a system there."""
        self.versions |= self.ask({"build": name, **asdict(wish)})["versions"]
        return PeerSteps(self, name)


class PeerSteps:
    """One system of a peer."""

    def __init__(self, process: PeerProcess, name: str) -> None:
        self._process = process
        self._name = name

    def run(self, steps: int) -> StepTimes:
        """Take steps."""
        answer = self._process.ask({"run": self._name, "steps": steps})
        return StepTimes(answer["seconds"], answer["cpu_seconds"])

    def l0(self) -> float:
        """Return the next batch's L0."""
        return float(self._process.ask({"l0": self._name})["l0"])

    def drop(self) -> None:
        """Let the process forget it."""
        self._process.ask({"drop": self._name})


@contextmanager
def peer_process(library: str, python: Path, *, threads: int) -> Iterator[PeerProcess]:
    """Run `sae_step_peer.py` for a library; what it complains of is shown when it fails."""
    with line_process([str(python), str(PEER_SCRIPT), library], threads=threads) as process:
        yield PeerProcess(process)
