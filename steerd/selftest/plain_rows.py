"""What the plain host's residual stream is on a text, which the probes are made from."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel


class PlainRows:
    """The rows [tokens, d_model], float32, at some hook points of a text in one plain forward."""

    def __init__(self, host: HostModel, ids: list[int], hook_points: Iterable[HookPoint]) -> None:
        found = host.activations(torch.tensor([ids]), None, sorted(set(hook_points)))
        self._rows = {point: rows[0].float() for point, rows in found.items()}
        self.ordinary = [
            position
            for position, token_id in enumerate(ids)
            if position > 0 and token_id not in host.special_token_ids
        ]
        """Positions whose rows are like most: neither special tokens nor the very first."""

    def at(self, hook_point: HookPoint) -> Tensor:
        """All rows, [tokens, d_model]."""
        return self._rows[hook_point]

    def ordinary_at(self, hook_point: HookPoint) -> Tensor:
        """The ordinary rows, [ordinary, d_model]."""
        return self._rows[hook_point][self.ordinary]

    def median_norm(self, hook_point: HookPoint) -> float:
        """The usual length of a row."""
        return float(self.ordinary_at(hook_point).norm(dim=-1).median())
