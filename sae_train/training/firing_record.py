"""When each feature last fired in training."""

from __future__ import annotations

import torch
from torch import Tensor


class FiringRecord:
    """How many tokens ago each feature last fired; a feature is dead after `dead_window_tokens`."""

    def __init__(
        self, d_sae: int, *, dead_window_tokens: int, device: torch.device | str | None = None
    ) -> None:
        self.tokens_since_fired = torch.zeros(d_sae, dtype=torch.long, device=device)
        self._window = dead_window_tokens

    def update(self, fired: Tensor, tokens: int) -> None:
        """Take in a batch of `tokens`; `fired` [d_sae] bool says who was active in it."""
        self.tokens_since_fired = (self.tokens_since_fired + tokens).masked_fill(fired, 0)

    def restore(self, tokens_since_fired: Tensor) -> None:
        """Go back to an earlier `tokens_since_fired` [d_sae]."""
        self.tokens_since_fired = tokens_since_fired.to(self.tokens_since_fired.device)

    @property
    def dead(self) -> Tensor:
        """[d_sae] bool."""
        return self.tokens_since_fired >= self._window
