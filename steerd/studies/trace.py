"""Which features are active at some tokens of a text, in every SAE along the forward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from steerd.engine.steered_forward import Reader, SteeredForward, SteeredText
from steerd.engine.study import Progress
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.token_texts import TokenTexts
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.steering.receipt import NO_RECEIPT
from steerd.studies.applied_steering import applied
from steerd.studies.trace_table import TracedFeature, TracedRow, TraceTable

_TINY = 1e-30  # no row is as short


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceWish:
    """What is read: the `positions` of a text by some SAEs, `top` features each at most.

    Rows are read before all edits at their hook point, as Generate's readings, or with `after_edit` after.
    """

    text: SteeredText
    plan_hash: str
    saes: tuple[str, ...]
    positions: tuple[int, ...]
    top: int
    after_edit: bool = False


class Trace:
    """The study of one TraceWish: a forward, then an SAE at a time."""

    def __init__(self, forward: SteeredForward, host: HostModel, saes: LoadedSaes, wish: TraceWish) -> None:
        self._forward = forward
        self._host = host
        self._wish = wish
        self._saes = sorted(map(saes.get, wish.saes), key=lambda loaded: loaded.hook_point.depth)
        self._resid: dict[HookPoint, Tensor] = {}  # [positions, d_model] float32
        self._receipt = NO_RECEIPT
        self._rows: list[TracedRow] = []

    def run(self) -> Iterator[Progress]:
        """First the forward, then the SAEs."""
        wish = self._wish
        readers = {loaded.hook_point: self._keeper(loaded.hook_point) for loaded in self._saes}
        if wish.after_edit:
            (self._receipt,) = self._forward.run([wish.text], after=readers)
        else:
            (self._receipt,) = self._forward.run([wish.text], before=readers)
        yield Progress(0, len(self._saes), "SAEs")
        for number, loaded in enumerate(self._saes, 1):
            self._rows += self._read(loaded, self._resid[loaded.hook_point])
            yield Progress(number, len(self._saes), "SAEs")

    def result(self) -> TraceTable:
        """The rows of the SAEs so far."""
        wish = self._wish
        ids = wish.text.token_ids
        return TraceTable(
            token_ids=ids,
            token_texts=tuple(TokenTexts(self._host.tokenizer).run(ids)),
            rows=tuple(self._rows),
            steering=applied(wish.text.steering, wish.plan_hash, self._receipt),
            complete=len(self._rows) == len(self._saes) * len(wish.positions),
        )

    def _keeper(self, hook_point: HookPoint) -> Reader:
        def keep(rows: Tensor) -> None:
            self._resid[hook_point] = rows[list(self._wish.positions)].float()

        return keep

    def _read(self, loaded: LoadedSae, resid: Tensor) -> Iterator[TracedRow]:
        """What an SAE sees in rows resid [positions, d_model]."""
        sae = loaded.sae
        acts = sae.encode(resid)  # [positions, d_sae]
        norms = resid.norm(dim=1).clamp(min=_TINY)  # [positions]
        errors = (resid - sae.decode(acts)).norm(dim=1)
        values, features = acts.topk(min(self._wish.top, sae.d_sae), dim=1)
        shares = values * sae.W_dec.norm(dim=1)[features] / norms.unsqueeze(1)
        strongest = zip(features.tolist(), values.tolist(), shares.tolist(), strict=True)
        lengths = zip(norms.tolist(), errors.tolist(), (acts > 0).sum(dim=1).tolist(), strict=True)
        for position, (length, error, active), columns in zip(
            self._wish.positions, lengths, strongest, strict=True
        ):
            yield TracedRow(
                sae=loaded.name,
                hook_point=str(loaded.hook_point),
                position=position,
                resid_norm=length,
                error_norm=error,
                unexplained=(error / length) ** 2,
                active=active,
                features=tuple(
                    TracedFeature(feature, value, share, loaded.label(feature))
                    for feature, value, share in zip(*columns, strict=True)
                    if value > 0
                ),
            )
