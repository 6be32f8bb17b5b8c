"""When each feature last fired in training."""

from __future__ import annotations

import torch
from torch import Tensor


class FiringRecord:
    """How many tokens ago each feature last fired; a feature is dead after `dead_window_tokens`."""

    def __init__(self, d_sae: int, *, dead_window_tokens: int) -> None:
        self.tokens_since_fired = torch.zeros(d_sae, dtype=torch.long)
        self._window = dead_window_tokens

    def update(self, fired: Tensor, tokens: int) -> None:
        """Take in a batch of `tokens`; `fired` [d_sae] bool says who was active in it."""
        self.tokens_since_fired += tokens
        self.tokens_since_fired[fired.cpu()] = 0

    @property
    def dead(self) -> Tensor:
        """[d_sae] bool."""
        return self.tokens_since_fired >= self._window
