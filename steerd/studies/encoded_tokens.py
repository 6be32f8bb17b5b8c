"""What features do on tokens, as plain data: a few numbers a token, all tokens of a part in flat arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerd.steering.intervention import FeatureRef


@dataclass(frozen=True, slots=True)
class EncodeWish:
    """Texts in token ids and what is read of them: watched features and the `top_k` most active of `saes`, or
    with `full_codes` every active feature of `saes`."""

    texts: tuple[tuple[int, ...], ...]
    watch: tuple[FeatureRef, ...]
    top_k: int
    full_codes: bool
    saes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SaeCodes:
    """Activations in one SAE: `counts` [tokens] says how many entries of `features` and `values` [entries]
    belong to each token, in their order."""

    sae: str
    counts: NDArray[np.int64]
    features: NDArray[np.int64]
    values: NDArray[np.float32]

    def by_token(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Features and values of each token."""
        ends = np.cumsum(self.counts)[:-1]
        return zip(np.split(self.features, ends), np.split(self.values, ends), strict=True)

    def part(self, first: int, end: int) -> SaeCodes:
        """The codes of the tokens from `first` up to `end`."""
        before, after = int(self.counts[:first].sum()), int(self.counts[:end].sum())
        return SaeCodes(
            self.sae, self.counts[first:end], self.features[before:after], self.values[before:after]
        )


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTokens:
    """Tokens of the text with that number from a position on, with their codes by SAE.

    `token_texts` is empty where nobody has told it yet.
    """

    text: int
    first_position: int
    token_ids: tuple[int, ...]
    codes: tuple[SaeCodes, ...]
    token_texts: tuple[str, ...] = ()

    @staticmethod
    def joined(parts: Sequence[EncodedTokens]) -> EncodedTokens:
        """Parts of one text that follow each other, as one."""
        by_sae = zip(*(part.codes for part in parts), strict=True)
        return EncodedTokens(
            text=parts[0].text,
            first_position=parts[0].first_position,
            token_ids=tuple(token_id for part in parts for token_id in part.token_ids),
            codes=tuple(map(_joined_codes, by_sae)),
            token_texts=tuple(text for part in parts for text in part.token_texts),
        )


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """How much was encoded: whole texts and their tokens; `complete` if that is all."""

    complete: bool
    texts: int
    tokens: int


def _joined_codes(pieces: Sequence[SaeCodes]) -> SaeCodes:
    return SaeCodes(
        pieces[0].sae,
        *(
            np.concatenate([getattr(piece, column) for piece in pieces])
            for column in ("counts", "features", "values")
        ),
    )
