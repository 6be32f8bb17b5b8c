"""The optimisation of one SAE: its parameters, optimiser, schedule and dead features, step by step."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.architectures.trainable_sae import SaeStep, TrainableSae, TrainingBatch
from sae_train.config import TrainingConfig
from sae_train.ranks import ALONE, Ranks
from sae_train.training.firing_record import FiringRecord
from sae_train.training.schedules import learning_rate_factor
from steerd.errors import SteerdError


class TrainingError(SteerdError):
    """Training that cannot go on: the loss is not finite."""

    reason = "TRAINING_ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNumbers:
    """What a step's log line says, of the whole batch."""

    loss: float
    mse: float
    l0: float
    dead_share: float
    gradient_norm: float
    learning_rate: float
    parts: dict[str, float]


class SaeTraining:
    """Owns one SAE while it learns; the same on every rank, each rank seeing its own part of the batches."""

    def __init__(
        self, sae: TrainableSae, training: TrainingConfig, *, learning_rate: float, ranks: Ranks = ALONE
    ) -> None:
        """Begin at step 0; `learning_rate` is the schedule's highest."""
        self.sae = sae
        self.steps = 0
        self._training = training
        self._learning_rate = learning_rate
        self._ranks = ranks
        self._optimiser = torch.optim.Adam(sae.parameters(), lr=learning_rate, fused=True)
        self._firing = FiringRecord(
            sae.d_sae, dead_window_tokens=training.dead_after_tokens, device=sae.b_dec.device
        )

    def step(self, x: Tensor, weights: Tensor | None = None) -> StepNumbers:
        """Take one step on this rank's rows, scaled [rows, d_model]; raises TrainingError.

        `weights` [rows] is how much each row's error counts, mean 1 over the whole batch.
        """
        batch = TrainingBatch(
            x=x,
            dead=self._firing.dead,
            weights=weights,
            progress=self.steps / self._training.num_steps,
            ranks=self._ranks,
        )
        with self._precision(x.device):
            step: SaeStep = self.sae(batch)
        self._optimiser.zero_grad(set_to_none=True)
        step.loss.backward()  # type: ignore[no-untyped-call]
        gradient_norm = self._prepare_gradients()
        numbers = self._numbers(step, gradient_norm)
        self._check_finite(numbers)
        self._optimiser.param_groups[0]["lr"] = numbers.learning_rate
        self._optimiser.step()
        self.sae.constrain_parameters()
        self._firing.update(self._ranks.sum(step.fired.to(torch.int32)) > 0, batch.total_rows)
        self.steps += 1
        return numbers

    def state(self) -> dict[str, Tensor]:
        """Return everything that decides the steps to come, as named tensors."""
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        for index, moments in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in moments.items()}
        tensors["tokens_since_fired"] = self._firing.tokens_since_fired
        tensors["steps"] = torch.tensor(self.steps)
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a state that `state` returned."""
        self.sae.load_state_dict({name: tensors[f"sae.{name}"] for name in self.sae.state_dict()})
        saved = self._optimiser.state_dict()
        saved["state"] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, index, moment = name.split(".")
                saved["state"].setdefault(int(index), {})[moment] = tensor
        self._optimiser.load_state_dict(saved)
        self._firing.restore(tensors["tokens_since_fired"])
        self.steps = int(tensors["steps"])

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        if self._training.autocast == "none":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def _prepare_gradients(self) -> Tensor:
        """Sum the gradients over the ranks, constrain and clip them; their norm before clipping."""
        for parameter in self.sae.parameters():
            if parameter.grad is not None:
                parameter.grad = self._ranks.sum(parameter.grad)
        self.sae.constrain_gradient()
        largest = self._training.gradient_clip / self.sae.d_model  # the losses are means over d_model
        return torch.nn.utils.clip_grad_norm_(self.sae.parameters(), largest)

    def _numbers(self, step: SaeStep, gradient_norm: Tensor) -> StepNumbers:
        own = torch.stack([step.loss.detach(), step.mse, step.l0, *step.parts.values()])
        total = self._ranks.sum(own)
        loss, mse, l0, dead_share, norm, *parts = torch.cat(
            [total[:3], torch.stack([self._firing.dead.float().mean(), gradient_norm]), total[3:]]
        ).tolist()  # one transfer
        factor = learning_rate_factor(
            self.steps,
            num_steps=self._training.num_steps,
            warm_up_share=self._training.warm_up_share,
            decay_share=self._training.decay_share,
        )
        return StepNumbers(
            loss=loss,
            mse=mse,
            l0=l0,
            dead_share=dead_share,
            gradient_norm=norm,
            learning_rate=self._learning_rate * factor,
            parts=dict(zip(step.parts, parts, strict=True)),
        )

    def _check_finite(self, numbers: StepNumbers) -> None:
        for what, value in (("loss", numbers.loss), ("gradient's norm", numbers.gradient_norm)):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the {what} is {value} at step {self.steps}; "
                    f"the newest checkpoint is kept, try a learning_rate below {self._learning_rate}"
                )
