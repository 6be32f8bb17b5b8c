"""Many texts as forwards of about a size: neighbours of like length run together, padded on the right."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_WINDOW = 32  # texts that are sorted by length together, so that their order is kept roughly


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts of one forward: `numbers` are their places among all.

    `input_ids`, `is_token` and `is_ordinary` are [batch, seq]: not padding, and of those neither a special
    token nor a text's first one, whose row a host makes unlike all others.
    """

    numbers: tuple[int, ...]
    lengths: tuple[int, ...]
    input_ids: Tensor
    is_token: Tensor
    is_ordinary: Tensor

    @property
    def attention_mask(self) -> Tensor | None:
        """What the host's forward takes: None without padding."""
        return None if bool(self.is_token.all()) else self.is_token.long()


class TextBatches:
    """All texts, each once. Early texts come early: also a part of the batches is a fair sample."""

    def __init__(self, texts: Sequence[Sequence[int]], *, special_token_ids: Collection[int] = ()) -> None:
        self._texts = texts
        self._special_token_ids = special_token_ids
        self._begun = 0  # texts that were in a window
        self._window: list[int] = []  # numbers of texts that are left of it, the longest first

    def __bool__(self) -> bool:
        return bool(self._window) or self._begun < len(self._texts)

    def take(self, rows: int) -> TextBatch:
        """The next batch, of at most so many ids, padding included; a longer text comes alone."""
        if not self._window:
            first, self._begun = self._begun, min(self._begun + _WINDOW, len(self._texts))
            self._window = sorted(range(first, self._begun), key=lambda n: -len(self._texts[n]))
        count = max(rows // max(len(self._texts[self._window[0]]), 1), 1)
        numbers, self._window = self._window[:count], self._window[count:]
        return _batch(numbers, [self._texts[number] for number in numbers], self._special_token_ids)

    def put_back(self, batch: TextBatch) -> None:
        """The batch that was taken last is to come again."""
        self._window = [*batch.numbers, *self._window]


def _batch(
    numbers: Sequence[int], texts: Sequence[Sequence[int]], special_token_ids: Collection[int]
) -> TextBatch:
    """The longest text is the first."""
    lengths = tuple(len(text) for text in texts)
    input_ids = torch.tensor([[*text, *[0] * (lengths[0] - len(text))] for text in texts])
    is_token = torch.arange(lengths[0]) < torch.tensor(lengths).unsqueeze(1)
    special = torch.tensor(sorted(special_token_ids), dtype=torch.long)
    is_ordinary = is_token & ~torch.isin(input_ids, special)
    is_ordinary[:, 0] = False
    return TextBatch(tuple(numbers), lengths, input_ids, is_token, is_ordinary)
