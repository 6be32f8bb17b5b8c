"""Next tokens of texts, steered and not; what does not depend on the steering is computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steerd.engine.steered_forward import SteeredForward
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSae
from steerd.steering.steering import Steering
from steerd.studies.output_score import OutputScorer, last_layer

_MOST_KEPT = 2**25
"""Log-probabilities: 128 MiB."""


class NextTokenReader:
    """For one feature. For studies: on the engine's thread, in a slice."""

    def __init__(
        self,
        host: HostModel,
        loaded: LoadedSae,
        feature: int,
        forward: SteeredForward,
        neutral: Sequence[int],
        plain: Steering,
    ) -> None:
        """`neutral` are the ids that the output score is taken after, `plain` is what stays in force whatever
        is tried."""
        self._host = host
        self._feature = feature
        self._forward = forward
        self._plain = plain
        self._scorer = OutputScorer(host, loaded, forward, neutral, plain)
        self._spoken: tuple[Tensor, float] | None = None
        self._special = torch.tensor(sorted(host.special_token_ids), dtype=torch.long)
        self._kept: dict[tuple[tuple[int, ...], bool], Tensor] = {}

    def spoken(self) -> tuple[Tensor, float]:
        """The ids of the tokens that the feature promotes, most first, and its output score."""
        if self._spoken is None:
            promoted = self._scorer.promoted([self._feature])
            (score,) = self._scorer.scores([self._feature], promoted)
            self._spoken = promoted[0], score
        return self._spoken

    def unsteered(self, text: tuple[int, ...], *, is_whole: bool) -> Tensor:
        """As `steered`, of the text as it is without: [rows, vocab]."""
        key = text, is_whole
        if key in self._kept:
            return self._kept[key]
        logprobs = self.steered(text, [self._plain], is_whole=is_whole)[0]
        if sum(kept.numel() for kept in self._kept.values()) + logprobs.numel() <= _MOST_KEPT:
            self._kept[key] = logprobs
        return logprobs

    def steered(self, text: tuple[int, ...], steerings: Sequence[Steering], *, is_whole: bool) -> Tensor:
        """Log-probabilities [steerings, rows, vocab] after the last row, or after all ordinary ones."""
        rows = last_layer(self._host, self._forward, text, steerings)
        rows = rows[:, self._ordinary(text)] if is_whole else rows[:, -1:]
        logits = self._host.unembed(rows.flatten(0, 1))
        return logits.log_softmax(dim=-1).view(*rows.shape[:2], -1).cpu()

    def _ordinary(self, text: Sequence[int]) -> Tensor:
        kept = ~torch.isin(torch.tensor(text), self._special)
        kept[0] = False
        return kept
