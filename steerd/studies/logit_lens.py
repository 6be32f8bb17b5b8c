"""The logit lens: what the host would predict if it ended after a layer (nostalgebraist, 2020).

The residual stream after a layer, all edits there included, goes through the host's own final norm and head;
that of the last layer therefore gives the host's own prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from steerd.engine.steered_forward import SteeredForward, SteeredText
from steerd.engine.study import Progress
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.token_texts import TokenTexts
from steerd.steering.receipt import NO_RECEIPT
from steerd.studies.applied_steering import applied
from steerd.studies.lens_table import ChosenToken, LensCell, LensTable, LikelyToken

_ROWS_AT_ONCE = 64  # through the head: a slice


@dataclass(frozen=True, kw_only=True, slots=True)
class LensWish:
    """What is looked at: `layers` and `positions` of a text, the `top` likeliest tokens and the `chosen`."""

    text: SteeredText
    plan_hash: str
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    top: int
    chosen: tuple[int, ...]


class LogitLens:
    """The study of one LensWish: a forward, then the head on the rows that were kept."""

    def __init__(self, forward: SteeredForward, host: HostModel, wish: LensWish) -> None:
        self._forward = forward
        self._host = host
        self._wish = wish
        self._texts = TokenTexts(host.tokenizer)
        self._rows: dict[int, Tensor] = {}  # by layer, [positions, d_model]
        self._receipt = NO_RECEIPT
        self._cells: list[LensCell] = []

    def run(self) -> Iterator[Progress]:
        """First the forward, then some rows at a time."""
        wish = self._wish
        readers = {HookPoint(layer, "resid_post"): partial(self._keep, layer) for layer in wish.layers}
        (self._receipt,) = self._forward.run([wish.text], after=readers)
        places = [(layer, index) for layer in wish.layers for index in range(len(wish.positions))]
        rows = torch.cat([self._rows[layer] for layer in wish.layers])  # [places, d_model]
        yield Progress(0, len(places), "rows")
        for first in range(0, len(places), _ROWS_AT_ONCE):
            here = slice(first, first + _ROWS_AT_ONCE)
            logprobs = self._host.unembed(rows[here]).log_softmax(dim=-1)
            self._cells += self._read(logprobs, places[here])
            yield Progress(len(self._cells), len(places), "rows")

    def result(self) -> LensTable:
        """The cells so far."""
        wish = self._wish
        return LensTable(
            token_ids=wish.text.token_ids,
            token_texts=tuple(self._texts.run(wish.text.token_ids)),
            chosen_ids=wish.chosen,
            chosen_texts=tuple(map(self._texts.one, wish.chosen)),
            cells=tuple(self._cells),
            steering=applied(wish.text.steering, wish.plan_hash, self._receipt),
            complete=len(self._cells) == len(wish.layers) * len(wish.positions),
        )

    def _keep(self, layer: int, rows: Tensor) -> None:
        self._rows[layer] = rows[list(self._wish.positions)]

    def _read(self, logprobs: Tensor, places: list[tuple[int, int]]) -> Iterator[LensCell]:
        """Cells of rows whose log-probabilities [places, vocab] are given."""
        wish = self._wish
        values, ids = logprobs.topk(wish.top, dim=-1)
        chosen = logprobs[:, list(wish.chosen)]  # [places, chosen]
        ranks = torch.ones_like(chosen, dtype=torch.long)
        for number in range(len(wish.chosen)):
            ranks[:, number] += (logprobs > chosen[:, number : number + 1]).sum(dim=-1)
        rows = zip(places, ids.tolist(), values.tolist(), chosen.tolist(), ranks.tolist(), strict=True)
        for (layer, index), top_ids, top_values, chosen_values, chosen_ranks in rows:
            yield LensCell(
                layer=layer,
                position=wish.positions[index],
                top=tuple(
                    LikelyToken(token_id, self._texts.one(token_id), value)
                    for token_id, value in zip(top_ids, top_values, strict=True)
                ),
                chosen=tuple(map(ChosenToken, chosen_values, chosen_ranks)),
            )
