"""What ablating a feature changes in the likelihood of each token of a text.

Measured, not estimated: a forward without and one with the ablation, as the FAST paper shows features
(arXiv 2506.07691) and in the sense of the ablation effects of arXiv 2309.08600.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from steerd.engine.steered_forward import Reader, SteeredForward, SteeredText
from steerd.engine.study import Progress
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.known_streams import KnownStreams
from steerd.host.token_texts import TokenTexts
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.receipt import NO_RECEIPT, Receipt
from steerd.steering.steering import Steering
from steerd.studies.applied_steering import applied
from steerd.studies.effect_table import EffectTable, FeatureEffect

_ROWS_AT_ONCE = 64  # through the head: a slice


@dataclass(frozen=True, slots=True)
class Ablation:
    """A feature, and all that steers the text with the feature's ablation among it."""

    feature: FeatureRef
    steering: Steering


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectWish:
    """A text under some steering, at least two tokens long, and what is ablated besides, each by itself."""

    text: SteeredText
    plan_hash: str
    ablations: tuple[Ablation, ...]


class TokenEffects:
    """The study of one EffectWish: the text as it is, then some ablations at a time."""

    def __init__(
        self,
        forward: SteeredForward,
        host: HostModel,
        saes: LoadedSaes,
        wish: EffectWish,
        *,
        slice_tokens: int,
    ) -> None:
        """Forwards are of about `slice_tokens` tokens, or of one text that is longer."""
        self._forward = forward
        self._host = host
        self._streams = KnownStreams(host)
        self._saes = saes
        self._wish = wish
        self._token_ids = torch.tensor(wish.text.token_ids, device=host.device)
        self._group_size = max(slice_tokens // len(self._token_ids), 1)
        self._total = (1 + len(wish.ablations)) * (len(self._token_ids) - 1)
        self._done = 0
        self._receipt = NO_RECEIPT
        self._logprobs: Tensor | None = None  # [tokens]
        self._acts: dict[FeatureRef, Tensor] = {}  # each [tokens]
        self._changes: dict[FeatureRef, Tensor] = {}  # each [tokens]

    def run(self) -> Iterator[Progress]:
        """A feature that is nowhere active takes no forward: its ablation changes nothing."""
        (self._receipt,), rows = self._run([self._wish.text], self._readers())
        yield self._progress()
        plain = self._logprobs = yield from self._scored(rows[0], 0)
        active = [ablation for ablation in self._wish.ablations if self._acts[ablation.feature].any()]
        for ablation in self._wish.ablations:
            if ablation not in active:
                self._changes[ablation.feature] = torch.zeros_like(plain)
                self._done += len(plain) - 1
        yield self._progress()
        for first in range(0, len(active), self._group_size):
            group = active[first : first + self._group_size]
            texts = [replace(self._wish.text, steering=ablation.steering) for ablation in group]
            _, rows = self._run(texts, {})
            yield self._progress()
            for ablation, of_text in zip(group, rows, strict=True):
                # What comes before the feature's first token is as it was.
                start = int(self._acts[ablation.feature].nonzero()[0])
                ablated = yield from self._scored(of_text, start)
                ablated[: start + 1] = plain[: start + 1]
                self._changes[ablation.feature] = ablated - plain

    def result(self) -> EffectTable:
        """The text, and the features whose ablation has been measured so far."""
        text, measured = self._wish.text, [a for a in self._wish.ablations if a.feature in self._changes]
        logprobs = torch.zeros(len(self._token_ids)) if self._logprobs is None else self._logprobs
        return EffectTable(
            token_ids=text.token_ids,
            token_texts=tuple(TokenTexts(self._host.tokenizer).run(text.token_ids)),
            logprobs=tuple(logprobs.tolist()),
            ordinary=tuple(
                position > 0 and token_id not in self._host.special_token_ids
                for position, token_id in enumerate(text.token_ids)
            ),
            effects=tuple(self._effect(ablation.feature) for ablation in measured),
            steering=applied(text.steering, self._wish.plan_hash, self._receipt),
            complete=len(measured) == len(self._wish.ablations),
        )

    def _effect(self, feature: FeatureRef) -> FeatureEffect:
        return FeatureEffect(
            feature=feature,
            label=self._saes.get(feature.sae).label(feature.index),
            activations=tuple(self._acts[feature].tolist()),
            changes=tuple(self._changes[feature].tolist()),
        )

    def _run(
        self, texts: Sequence[SteeredText], readers: Mapping[HookPoint, Reader]
    ) -> tuple[list[Receipt], Tensor]:
        """What the steering of the texts did, and what left the last layer: [texts, tokens, d_model]."""
        last: list[Tensor] = []
        point = HookPoint(self._host.num_layers - 1, "resid_post")
        receipts = self._forward.run(
            texts,
            before=readers,
            after={point: lambda rows: last.append(rows.clone())},
            streams=self._streams,
        )
        return receipts, last[0].view(len(texts), len(self._token_ids), -1)

    def _readers(self) -> dict[HookPoint, Reader]:
        """What keeps the activations of the features, as they are before all edits of their hook points."""
        by_point: dict[HookPoint, list[FeatureRef]] = {}
        for ablation in self._wish.ablations:
            by_point.setdefault(self._saes.hook_point(ablation.feature), []).append(ablation.feature)
        return {point: partial(self._keep, features) for point, features in by_point.items()}

    def _keep(self, features: Sequence[FeatureRef], rows: Tensor) -> None:
        for feature in features:
            acts = self._saes.get(feature.sae).sae.feature_acts(rows.float(), [feature.index])
            self._acts[feature] = acts.squeeze(1).cpu()

    def _scored(self, rows: Tensor, first: int) -> Generator[Progress, None, Tensor]:
        """The log-probabilities [tokens] of the tokens after `first`, 0 up to it, of a text whose rows
        [tokens, d_model] left the last layer."""
        end = len(rows) - 1  # nothing follows the last one
        logprobs = torch.zeros(len(rows))
        self._done += first
        for start in range(first, end, _ROWS_AT_ONCE):
            here = slice(start, min(start + _ROWS_AT_ONCE, end))
            after = slice(here.start + 1, here.stop + 1)
            logits = self._host.unembed(rows[here])  # [rows, vocab]
            chosen = logits.gather(1, self._token_ids[after].unsqueeze(1)).squeeze(1)
            logprobs[after] = (chosen - logits.logsumexp(dim=-1)).cpu()
            self._done += here.stop - here.start
            yield self._progress()
        return logprobs

    def _progress(self) -> Progress:
        return Progress(self._done, self._total, "tokens")
