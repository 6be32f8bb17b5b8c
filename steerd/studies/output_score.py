"""How much a feature says, apart from what it reads: promoted tokens and output scores (arXiv 2505.20063).

The tokens that a feature promotes are those that its direction makes likeliest through the host's own norm
and head. The score is taken after a neutral text, with the feature raised on the last token by ten times the
largest activation there: the probability of the likeliest promoted token, times how near its rank is to the
top. So it is defined; a token that is likely after that text anyway counts in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from steerd.engine.steered_forward import SteeredForward, SteeredText
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Add, FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSae
from steerd.steering.scope import Phase, Scope
from steerd.steering.steering import Steering

PROMOTED = 20
"""How many of the most promoted tokens count."""

_AMPLIFIED = 10.0
_LAST_TOKEN = Scope(phase=Phase.PROMPT, last_n=1, include_special_tokens=True)


class OutputScorer:
    """Scores features of one SAE after one neutral text. For studies: on the engine's thread, in a slice."""

    def __init__(
        self,
        host: HostModel,
        loaded: LoadedSae,
        forward: SteeredForward,
        neutral: Sequence[int],
        plain: Steering,
    ) -> None:
        """`plain` is what stays in force whatever is tried."""
        self._host = host
        self._loaded = loaded
        self._forward = forward
        self._neutral = tuple(neutral)
        self._plain = plain
        self._raised: float | None = None

    def promoted(self, features: Sequence[int]) -> Tensor:
        """The ids of the most promoted tokens, [features, PROMOTED], most first."""
        directions = self._loaded.sae.W_dec[torch.tensor(features)]  # [features, d_model]
        return self._host.unembed(directions).topk(PROMOTED, dim=-1).indices.cpu()

    def scores(self, features: Sequence[int], promoted: Tensor) -> list[float]:
        """The output score of each feature; all in one forward."""
        steerings = [self._raising(feature) for feature in features]
        rows = last_layer(self._host, self._forward, self._neutral, steerings)[:, -1]
        probs = self._host.unembed(rows).softmax(dim=-1).cpu()  # [features, vocab]
        return [output_score(*pair) for pair in zip(probs, promoted, strict=True)]

    def _raising(self, feature: int) -> Steering:
        raised = Intervention(
            target=FeatureRef(self._loaded.name, feature), operation=Add(self._amount()), scope=_LAST_TOKEN
        )
        return replace(self._plain, interventions=(raised, *self._plain.interventions))

    def _amount(self) -> float:
        """Ten times the largest activation on the last token of the neutral text."""
        if self._raised is None:
            point = self._loaded.hook_point
            row = self._host.activations(torch.tensor([self._neutral]), None, [point])[point][0, -1]
            self._raised = _AMPLIFIED * float(self._loaded.sae.encode(row).max())
        return self._raised


def output_score(probs: Tensor, promoted: Tensor) -> float:
    """The score of a next token's probabilities [vocab] for a feature that promotes these tokens."""
    best = probs[promoted].max()
    rank = int((probs > best).sum())
    return float(best) * (1 - rank / len(probs))


def last_layer(
    host: HostModel, forward: SteeredForward, text: Sequence[int], steerings: Sequence[Steering]
) -> Tensor:
    """The rows [steerings, tokens, d_model] after the last layer, of one text steered in many ways."""
    found: list[Tensor] = []
    point = HookPoint(host.num_layers - 1, "resid_post")
    texts = [SteeredText(prompt_ids=tuple(text), steering=steering) for steering in steerings]
    forward.run(texts, after={point: lambda rows: found.append(rows.clone())})
    return found[0].view(len(texts), len(text), -1)
