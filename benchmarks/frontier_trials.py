"""One SAE trained by this project or by SAELens on given rows, and measured at equal L0."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cached_rows import Rows
from sae_train.activations.activation_scale import ActivationScale, estimate_scale, geometric_median
from sae_train.architectures.batch_topk import BatchTopKSettings
from sae_train.architectures.catalogue import Settings, build_sae
from sae_train.architectures.topk import TopKSettings
from sae_train.config import TrainingConfig
from sae_train.evaluation.calibration import calibrate_threshold
from sae_train.training.sae_training import SaeTraining
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.sae_file import load_sae

PEER_SCRIPT = Path(__file__).parent / "saelens_training.py"
PEER_DEAD_WINDOW = 20  # steps


@dataclass(frozen=True, slots=True)
class Trial:
    """One SAE to be trained."""

    architecture: str
    k: int
    learning_rate: float

    def settings(self) -> Settings:
        """What the architecture is given."""
        return BatchTopKSettings(k=self.k) if self.architecture == "batch_topk" else TopKSettings(k=self.k)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, on held-out rows."""

    trial: Trial
    variance_explained: float
    l0: float
    own_l0: float
    own_variance_explained: float
    inactive_share: float


class Trials:
    """Trains with one system after the other; every SAE is measured the same way."""

    def __init__(self, rows: Rows, options: argparse.Namespace) -> None:
        self._rows = rows
        self._options = options
        sample = torch.from_numpy(rows.train[: min(len(rows.train), 65_536)].astype(np.float32))
        self._scale: ActivationScale = estimate_scale(sample, outlier_norm=10.0)
        self._centre = geometric_median(sample[:32_768] * self._scale.scale)

    def ours(self, trials: Iterable[Trial]) -> list[Outcome]:
        """Train with this project's own step."""
        return [self._our_outcome(trial) for trial in trials]

    def saelens(self, trials: list[Trial]) -> list[Outcome]:
        """Train with SAELens's trainer, in its own environment."""
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "rows.npy", self._rows.train)
            spec = Path(folder) / "spec.json"
            spec.write_text(json.dumps(self._peer_spec(trials, Path(folder))))
            command = [self._options.peer_python, str(PEER_SCRIPT), str(spec)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            records = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
            return [
                self._measured(trial, load_sae(Path(record["folder"])).sae)
                for trial, record in zip(trials, records, strict=True)
            ]

    def _our_outcome(self, trial: Trial) -> Outcome:
        options = self._options
        config = TrainingConfig(tokens=options.tokens, batch_size=options.batch_size)
        sae = build_sae(
            trial.settings(),
            self._rows.held_out.shape[1],
            options.d_sae,
            b_dec=self._centre,
            generator=torch.Generator().manual_seed(0),
        )
        learner = SaeTraining(sae, config, learning_rate=trial.learning_rate)
        for _, batch in zip(range(config.num_steps), self._batches(), strict=False):
            learner.step(batch * self._scale.scale)
        return self._measured(trial, sae.to_inference(self._scale.scale).to(dtype=torch.float32))

    def _batches(self) -> Iterator[Tensor]:
        size = self._options.batch_size
        while True:
            for start in range(0, len(self._rows.train) - size + 1, size):
                yield torch.from_numpy(self._rows.train[start : start + size].astype(np.float32))

    def _peer_spec(self, trials: list[Trial], folder: Path) -> dict[str, Any]:
        runs = [
            {
                "architecture": trial.architecture,
                "d_sae": self._options.d_sae,
                "lr": trial.learning_rate,
                "dead_feature_window": PEER_DEAD_WINDOW,
                "init_norm": 1.0,
                "settings": {"k": trial.k},
                "folder": str(folder / f"sae-{index}"),
            }
            for index, trial in enumerate(trials)
        ]
        return {
            "rows": str(folder / "rows.npy"),
            "batch_size": self._options.batch_size,
            "tokens": self._options.tokens,
            "threads": torch.get_num_threads(),
            "runs": runs,
        }

    def _measured(self, trial: Trial, sae: SparseAutoencoder) -> Outcome:
        own_l0, own_explained, _ = measures(sae, self._rows.held_out)
        equal = sae
        if trial.architecture == "batch_topk":
            plain = dataclasses.replace(sae, activation=JumpReLU(torch.zeros(sae.d_sae)))
            threshold = calibrate_threshold(plain, lambda: torch.split(self._rows.held_out, 4096), k=trial.k)
            equal = dataclasses.replace(sae, activation=JumpReLU(torch.full((sae.d_sae,), threshold)))
        l0, explained, inactive = measures(equal, self._rows.held_out)
        return Outcome(trial, explained, l0, own_l0, own_explained, inactive)


def measures(sae: SparseAutoencoder, rows: Tensor) -> tuple[float, float, float]:
    """Mean L0, variance explained (over all rows at once) and the share of features that no row activates."""
    active = torch.zeros(sae.d_sae)
    squared_error = 0.0
    for batch in torch.split(rows, 4096):
        acts = sae.encode(batch)
        active += (acts > 0).sum(dim=0)
        squared_error += float((batch - sae.decode(acts)).double().square().sum())
    variance = float((rows.double() - rows.double().mean(dim=0)).square().sum())
    return float(active.sum()) / len(rows), 1 - squared_error / variance, float((active == 0).float().mean())
