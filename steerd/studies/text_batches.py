"""Many texts as forwards of about a size: neighbours of like length run together, padded on the right."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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


def text_batches(
    texts: Sequence[Sequence[int]], *, slice_tokens: int, special_token_ids: Collection[int] = ()
) -> Iterator[TextBatch]:
    """All texts, each once, in batches of at most `slice_tokens` ids, padding included; a longer text runs
    alone. Early texts come early: also a part of the batches is a fair sample."""
    for first in range(0, len(texts), _WINDOW):
        window = sorted(range(first, min(first + _WINDOW, len(texts))), key=lambda n: -len(texts[n]))
        while window:
            count = max(slice_tokens // max(len(texts[window[0]]), 1), 1)
            numbers, window = window[:count], window[count:]
            yield _batch(numbers, [texts[number] for number in numbers], special_token_ids)


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
