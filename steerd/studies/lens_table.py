"""What the logit lens saw of a text, as data."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.studies.applied_steering import AppliedSteering


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """A token and the natural log of its probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """How likely a token is that was asked for; `rank` 1 is the likeliest of all."""

    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class LensCell:
    """What the host would predict after the token at `position`, were `layer` its last.

    `top` are the likeliest tokens, in falling order; `chosen` those asked for, in their order.
    """

    layer: int
    position: int
    top: tuple[LikelyToken, ...]
    chosen: tuple[ChosenToken, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LensTable:
    """The cells, layer by layer, of a text's tokens; all of them where `complete`."""

    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    chosen_ids: tuple[int, ...]
    chosen_texts: tuple[str, ...]
    cells: tuple[LensCell, ...]
    steering: AppliedSteering
    complete: bool
