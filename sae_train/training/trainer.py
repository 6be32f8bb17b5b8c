"""The training loop: mixed batches to every SAE of the run, with the run's log and checkpoints."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.mixing_buffer import MixedBatch, MixingBuffer
from sae_train.config import Config, SaeConfig
from sae_train.ranks import ALONE, Ranks
from sae_train.recipe import run_identity
from sae_train.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from sae_train.training.run_log import RunLog
from sae_train.training.sae_training import SaeTraining, StepNumbers
from sae_train.training.trained_sae import TrainedSae

Evaluate = Callable[[SaeConfig, SaeTraining, ActivationScale], dict[str, Any]]  # Any: JSON values
"""Measures an SAE as it stands on held-out tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """One SAE of the run: what was asked for, what learns, and in which units."""

    config: SaeConfig
    training: SaeTraining
    scale: ActivationScale


class Trainer:
    """One run: owns its SAEs, its buffer and its place in the data; a checkpoint holds all three.

    A resumed run sees the batches that it would have seen and, on a CPU, ends with the same bits.
    """

    def __init__(
        self,
        config: Config,
        learners: Sequence[Learner],
        buffer: MixingBuffer,
        folder: Path,
        *,
        ranks: Ranks = ALONE,
        evaluate: Evaluate | None = None,
    ) -> None:
        """Start afresh, or from the newest checkpoint in `folder`; CheckpointError for another run's."""
        self.learners = tuple(learners)
        self.seconds = 0.0
        self._config = config
        self._buffer = buffer
        self._checkpoints = folder / "checkpoints"
        self._ranks = ranks
        self._evaluate = evaluate
        self._places = {point: index for index, point in enumerate(config.hook_points)}
        self._step = 0
        newest = newest_checkpoint(self._checkpoints)
        if newest is not None:
            self._restore(newest)

    @property
    def is_finished(self) -> bool:
        """Whether the configured tokens have been trained on."""
        return self._step >= self._config.training.num_steps

    def train(self, log: RunLog) -> None:
        """Go on to the end of the configured tokens; raises TrainingError when a loss is not finite."""
        training = self._config.training
        stage = log.stage("train", training.num_steps * training.batch_size)
        stage.found(self._step * training.batch_size)
        earlier, started = self.seconds, time.monotonic()
        try:
            while not self.is_finished:
                numbers = self.train_step(self._buffer.next_batch())
                self.seconds = earlier + time.monotonic() - started
                first = numbers[0]
                stage.advance(training.batch_size, mse=first.mse, l0=first.l0, dead=first.dead_share)
                self._after_step(numbers, log)
        finally:
            self._buffer.close()  # a prefetching thread would go on using the host

    def trained(self) -> list[TrainedSae]:
        """Return every SAE as it stands."""
        counts = self._buffer.counts
        return [
            TrainedSae(
                config=learner.config,
                sae=learner.training.sae,
                scale=learner.scale,
                steps=self._step,
                tokens=self._step * self._config.training.batch_size,
                seconds=self.seconds,
                outlier_share=counts.dropped / max(1, counts.kept + counts.dropped),
            )
            for learner in self.learners
        ]

    def train_step(self, batch: MixedBatch) -> list[StepNumbers]:
        """Take one step of every SAE on a whole batch, of which each rank works through its part."""
        weights = _row_weights(batch.special, self._config.training.special_token_weight)
        own = _part(len(batch.acts), self._ranks)
        acts = batch.acts[own]  # [rows, hook points, d_model]
        inputs = {point: acts[:, place].float() for point, place in self._places.items()}
        numbers = []
        for learner in self.learners:
            x = inputs[learner.config.hook_point].to(learner.training.sae.b_dec.device) * learner.scale.scale
            numbers.append(learner.training.step(x, None if weights is None else weights[own]))
        self._step += 1
        return numbers

    def _after_step(self, numbers: list[StepNumbers], log: RunLog) -> None:
        training, every = self._config.training, self._config.evaluation.every
        if self._is_due(training.log_every):
            for learner, own in zip(self.learners, numbers, strict=True):
                log.write("step", **self._record(learner, own))
        if self._evaluate is not None and every is not None and self._step % every == 0:
            for learner in self.learners:
                measured = self._evaluate(learner.config, learner.training, learner.scale)
                log.write("evaluation", **self._place_in_run(learner), metrics=measured)
        if self._is_due(training.checkpoint_every) and self._ranks.is_first:
            save_checkpoint(self._checkpoints, self._step, self._checkpoint())

    def _is_due(self, every: int) -> bool:
        return self.is_finished or self._step % every == 0

    def _record(self, learner: Learner, numbers: StepNumbers) -> dict[str, Any]:  # Any: JSON values
        own = dataclasses.asdict(numbers)
        return {**self._place_in_run(learner), **own, "seconds": round(self.seconds, 3)}

    def _place_in_run(self, learner: Learner) -> dict[str, Any]:
        tokens = self._step * self._config.training.batch_size
        return {"sae": learner.config.name, "step": self._step, "tokens": tokens}

    def _checkpoint(self) -> Checkpoint:
        parts = {f"sae.{learner.config.name}": learner.training.state() for learner in self.learners}
        state = {"step": self._step, "run": run_identity(self._config), "seconds": self.seconds}
        return Checkpoint(parts={"buffer": self._buffer.state(), **parts}, state=state)

    def _restore(self, path: Path) -> None:
        checkpoint = load_checkpoint(path)
        if checkpoint.state["run"] != run_identity(self._config):
            raise CheckpointError(
                f"{path}: belongs to a run with another configuration; choose another output"
            )
        self._buffer.restore(checkpoint.parts["buffer"])
        for learner in self.learners:
            learner.training.restore(checkpoint.parts[f"sae.{learner.config.name}"])
        self._step = checkpoint.state["step"]
        self.seconds = checkpoint.state["seconds"]


def _part(rows: int, ranks: Ranks) -> slice:
    """This rank's rows of a batch."""
    size = rows // ranks.size
    return slice(ranks.rank * size, (ranks.rank + 1) * size)


def _row_weights(special: Tensor, special_token_weight: float) -> Tensor | None:
    """How much each row counts [rows], with mean 1; None when all count alike."""
    if special_token_weight == 1.0:
        return None
    weights = torch.where(special, special_token_weight, 1.0)
    return weights / weights.mean()
