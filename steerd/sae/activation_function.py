"""The three activation functions that an SAE is served with.

Shapes: pre_acts and feature_acts are [..., d_sae]; a threshold is [d_sae].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ReLU:
    """A feature is active when its pre-activation is positive."""

    @property
    def columnwise(self) -> bool:
        """Whether one feature's activation needs its own pre-activation only."""
        return True

    def __call__(self, pre_acts: Tensor) -> Tensor:
        return torch.relu(pre_acts)

    def columns(self, features: Tensor | Sequence[int]) -> ReLU:  # noqa: ARG002  # the same for every feature
        """The function for these features alone."""
        return self

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> ReLU:  # noqa: ARG002
        """The same function; there is no tensor to move."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class JumpReLU:
    """A feature is active when its pre-activation is positive and strictly above its threshold [d_sae]."""

    threshold: Tensor

    @property
    def columnwise(self) -> bool:
        """Whether one feature's activation needs its own pre-activation only."""
        return True

    def __call__(self, pre_acts: Tensor) -> Tensor:
        return torch.relu(pre_acts) * (pre_acts > self.threshold)

    def columns(self, features: Tensor | Sequence[int]) -> JumpReLU:
        """The function for these features alone."""
        index = torch.as_tensor(features, dtype=torch.long, device=self.threshold.device)
        return JumpReLU(self.threshold[index])

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> JumpReLU:
        """The same function, its threshold on the device and in the dtype, where given."""
        return JumpReLU(self.threshold.to(device=device, dtype=dtype))


@dataclass(frozen=True, slots=True)
class TopK:
    """The k largest pre-activations of a row are active where positive; never more than k, ties included."""

    k: int

    @property
    def columnwise(self) -> bool:
        """Whether one feature's activation needs its own pre-activation only."""
        return False

    def __call__(self, pre_acts: Tensor) -> Tensor:
        top = torch.topk(pre_acts, self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre_acts).scatter(-1, top.indices, torch.relu(top.values))

    def columns(self, features: Tensor | Sequence[int]) -> TopK:  # noqa: ARG002  # refused whatever they are
        """Raises ValueError: which features are active depends on the whole row."""
        raise ValueError("TopK needs the pre-activations of the whole dictionary")

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> TopK:  # noqa: ARG002
        """The same function; there is no tensor to move."""
        return self


ActivationFunction = ReLU | JumpReLU | TopK
