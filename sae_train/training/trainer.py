"""The training loop: batches of cached activations through a trainable SAE."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationScale, estimate_scale, geometric_median
from sae_train.activations.mixing_buffer import mixed_batches
from sae_train.activations.training_rows import RowCounts, sample_rows, training_chunks
from sae_train.architectures.batch_topk import BatchTopKSae, SaeStep
from sae_train.config import Config
from sae_train.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from sae_train.training.firing_record import FiringRecord
from sae_train.training.run_log import RunLog
from sae_train.training.schedules import learning_rate_factor
from steerd.errors import SteerdError

_SCALE_SAMPLE_ROWS = 131_072
_CENTRE_SAMPLE_ROWS = 32_768


class TrainingError(SteerdError):
    """Training that cannot go on: the loss is not finite."""

    reason = "TRAINING_ERROR"


@dataclass(frozen=True, slots=True)
class TrainedSae:
    """A run's SAE and what is to be said about the run."""

    sae: BatchTopKSae
    scale: ActivationScale
    steps: int
    tokens: int
    seconds: float
    """Wall time of the steps, resumed parts together."""
    outlier_share: float


class Trainer:
    """One run: owns the SAE, its optimiser, its generators and its place in the data.

    The batches of a step are a function of the seed and the cache, so a resumed run finds its place by going
    through the stream again without training on it.
    """

    def __init__(self, config: Config, cache: ActivationCache, folder: Path) -> None:
        """Start afresh, or from the newest checkpoint in `folder`; CheckpointError for another run's."""
        self._config = config
        self._cache = cache
        self._checkpoints = folder / "checkpoints"
        self._num_steps = max(1, config.training.tokens // config.training.batch_size)
        self._counts = RowCounts()
        self._step = 0
        self._seconds = 0.0
        self.scale, self.sae = _initial_sae(config, cache)
        rate = config.training.learning_rate
        self._optimiser = torch.optim.Adam(self.sae.parameters(), lr=rate, fused=True)
        self._firing = FiringRecord(config.sae.d_sae, dead_window_tokens=config.training.dead_window_tokens)
        newest = newest_checkpoint(self._checkpoints)
        if newest is not None:
            self._restore(newest)

    @property
    def is_finished(self) -> bool:
        """Whether the configured tokens have been trained on."""
        return self._step >= self._num_steps

    def result(self) -> TrainedSae:
        """Return the SAE as it stands."""
        return TrainedSae(
            sae=self.sae,
            scale=self.scale,
            steps=self._step,
            tokens=self._step * self._config.training.batch_size,
            seconds=self._seconds,
            outlier_share=self._counts.outliers / max(1, self._counts.kept + self._counts.outliers),
        )

    def train(self, log: RunLog) -> TrainedSae:
        """Run to the end of the configured tokens; raises TrainingError when the loss is not finite."""
        training = self._config.training
        stage = log.stage("train", self._num_steps * training.batch_size)
        stage.found(self._step * training.batch_size)
        first_step, earlier, started = self._step, self._seconds, time.monotonic()
        for batch in islice(self._batches(), first_step, self._num_steps):
            step = self.train_step(batch)
            self._step += 1
            self._seconds = earlier + time.monotonic() - started
            stage.advance(len(batch), loss=step.mse, l0=step.l0, dead=self._dead_share())
            last = self._step == self._num_steps
            if last or self._step % training.log_every == 0:
                log.write("step", **self._record(step))
            if last or self._step % training.checkpoint_every == 0:
                save_checkpoint(self._checkpoints, self._step, self._checkpoint())
        return self.result()

    def train_step(self, batch: Tensor) -> SaeStep:
        """Take one optimisation step on activations [batch_size, d_model], any float dtype."""
        training = self._config.training
        x = batch.float() * self.scale.scale
        step: SaeStep = self.sae(x, dead=self._firing.dead, auxk_alpha=training.auxk_alpha)
        if not torch.isfinite(step.loss):
            raise TrainingError(
                f"the loss is {step.loss.item()} at step {self._step}; "
                f"the newest checkpoint is kept, try a training.learning_rate below {training.learning_rate}"
            )
        self._optimiser.zero_grad(set_to_none=True)
        step.loss.backward()  # type: ignore[no-untyped-call]
        self.sae.remove_parallel_gradient()
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), training.gradient_clip)
        self._optimiser.param_groups[0]["lr"] = self._learning_rate()
        self._optimiser.step()
        self.sae.normalise_decoder()
        self._firing.update(step.fired, len(batch))
        return step

    def _batches(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self._config.seed + 1)
        chunks = training_chunks(self._cache, self.scale, generator, self._counts)
        training = self._config.training
        return mixed_batches(
            chunks, batch_size=training.batch_size, buffer_rows=training.buffer_rows, generator=generator
        )

    def _learning_rate(self) -> float:
        training = self._config.training
        return training.learning_rate * learning_rate_factor(
            self._step,
            num_steps=self._num_steps,
            warm_up_share=training.warm_up_share,
            decay_share=training.decay_share,
        )

    def _dead_share(self) -> float:
        return float(self._firing.dead.float().mean())

    def _record(self, step: SaeStep) -> dict[str, Any]:  # Any: JSON values
        return {
            "step": self._step,
            "tokens": self._step * self._config.training.batch_size,
            "mse": step.mse,
            "auxiliary_loss": step.auxiliary_loss,
            "l0": step.l0,
            "smallest_active": step.smallest_active,
            "dead_share": self._dead_share(),
            "learning_rate": self._optimiser.param_groups[0]["lr"],
            "seconds": round(self._seconds, 3),
        }

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        for index, moments in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in moments.items()}
        tensors["tokens_since_fired"] = self._firing.tokens_since_fired
        state = {
            "step": self._step,
            "run": _run_identity(self._config),
            "last_smallest": self.sae.last_smallest,
            "seconds": self._seconds,
            "rows": dataclasses.asdict(self._counts),
        }
        return Checkpoint(tensors=tensors, state=state)

    def _restore(self, path: Path) -> None:
        checkpoint = load_checkpoint(path)
        if checkpoint.state["run"] != _run_identity(self._config):
            raise CheckpointError(
                f"{path}: belongs to a run with another configuration; choose another output"
            )
        tensors = checkpoint.tensors
        self.sae.load_state_dict({name: tensors[f"sae.{name}"] for name in self.sae.state_dict()})
        saved = self._optimiser.state_dict()
        saved["state"] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, index, moment = name.split(".")
                saved["state"].setdefault(int(index), {})[moment] = tensor
        self._optimiser.load_state_dict(saved)
        self._firing.tokens_since_fired = tensors["tokens_since_fired"]
        self.sae.last_smallest = checkpoint.state["last_smallest"]
        self._step = checkpoint.state["step"]
        self._seconds = checkpoint.state["seconds"]
        self._counts = RowCounts(**checkpoint.state["rows"])


def recipe(config: Config) -> dict[str, Any]:  # Any: JSON values
    """What decides a run's result, as JSON: the configuration without the places on this machine."""
    values = dataclasses.asdict(config)
    del values["output"], values["data"]["cache"]
    sources = values["data"]["sources"]
    values["data"]["sources"] = [{**source, "path": Path(source["path"]).name} for source in sources]
    return values


def _run_identity(config: Config) -> dict[str, Any]:  # Any: JSON values
    """What decides the weights at each step: the recipe without what is measured and said afterwards."""
    values = recipe(config)
    sources = [{**source, "licence": None} for source in values["data"]["sources"]]
    return {
        "seed": values["seed"],
        "host": values["host"],
        "sae": {**values["sae"], "weights_dtype": None},
        "data": {**values["data"], "sources": sources},
        "training": {**values["training"], "log_every": None, "checkpoint_every": None},
    }


def _initial_sae(config: Config, cache: ActivationCache) -> tuple[ActivationScale, BatchTopKSae]:
    generator = torch.Generator().manual_seed(config.seed)
    sample = sample_rows(cache, _SCALE_SAMPLE_ROWS, generator)
    scale = estimate_scale(sample, outlier_norm=config.training.outlier_norm)
    inliers = sample[scale.is_inlier(sample)]
    # Shards come one after another in the sample, so a slice would see only the first.
    centre_rows = inliers[torch.randperm(len(inliers), generator=generator)[:_CENTRE_SAMPLE_ROWS]]
    b_dec = geometric_median(centre_rows * scale.scale)
    sae = BatchTopKSae(sample.shape[1], config.sae.d_sae, config.sae.k, b_dec=b_dec, generator=generator)
    return scale, sae
