"""Words for people about each feature: top tokens, promoted tokens, contexts and a label, all from counts.

Nothing here is guessed by a model: a label names the tokens that carry most of a feature's activation, and
the corpus source when one source carries most of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sae_train.features.feature_observations import FeatureObservations, TokenMass
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder

TOP_TOKENS = 8
LABEL_TOKENS = 4

_SMOOTHING = 10.0  # occurrences added to each token's count: one that was seen once is not characteristic
_ALONE = 0.5  # share of the activation from which a token, or a source, stands for the feature
_FEATURES_AT_ONCE = 256
_SOURCE_LIFT = 2.5  # how much more of the activation than of the tokens a source must have


@dataclass(frozen=True, slots=True)
class FeatureTokens:
    """The tokens of one feature, most characteristic first, and their shares of its squared activation."""

    token_ids: NDArray[np.int64]
    shares: NDArray[np.float64]


def characteristic_tokens(observations: FeatureObservations) -> list[FeatureTokens]:
    """Rank each feature's tokens by share of its activation times log of lift over the token's frequency."""
    mass = observations.token_mass()
    frequency = (observations.token_rows.numpy() + _SMOOTHING) / (observations.rows + _SMOOTHING)
    bounds = np.searchsorted(mass.features, np.arange(len(observations.total) + 1))
    return [
        _rank(mass, slice(bounds[feature], bounds[feature + 1]), frequency)
        for feature in range(len(observations.total))
    ]


def _rank(mass: TokenMass, part: slice, frequency: NDArray[np.float64]) -> FeatureTokens:
    token_ids, values = mass.token_ids[part], mass.mass[part]
    if len(values) == 0:
        return FeatureTokens(token_ids=token_ids, shares=values)
    shares = values / values.sum()
    score = shares * np.log(np.maximum(shares / frequency[token_ids], 1.0))
    order = np.argsort(-score, kind="stable")[:TOP_TOKENS]
    return FeatureTokens(token_ids=token_ids[order], shares=shares[order])


def dominating_sources(observations: FeatureObservations, names: Sequence[str]) -> list[str | None]:
    """Return for each feature the source with half of its activation, far above its part of the data."""
    by_source = observations.source_mass.view(len(observations.total), len(names))  # [d_sae, sources]
    shares = by_source / by_source.sum(dim=1, keepdim=True).clamp(min=1e-12)
    base = observations.source_rows / max(observations.rows, 1)
    best_share, best = shares.max(dim=1)
    lift = best_share / base[best].clamp(min=1e-12)
    found = ((best_share >= _ALONE) & (lift >= _SOURCE_LIFT)).tolist()
    return [names[source] if ok else None for source, ok in zip(best.tolist(), found, strict=True)]


def promoted_tokens(host: HostModel, sae: SparseAutoencoder, *, count: int = TOP_TOKENS) -> Tensor:
    """Return the tokens whose logits each decoder direction raises unusually much, [d_sae, count].

    The direction is read through the final norm's weight and the head, as if no later layer touched it. A
    token's effect is counted in standard deviations over all features: some rare tokens have so long a row
    in the head that they would come first for hundreds of features.
    """
    embeddings = host.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    head = embeddings.weight.float().cpu()  # [vocab, d_model]
    directions = sae.W_dec.cpu() * _final_norm_weight(host)
    head = head - head.mean(dim=0)
    mean = directions.mean(dim=0)
    covariance = (directions - mean).t() @ (directions - mean) / len(directions)  # [d_model, d_model]
    spread = ((head @ covariance) * head).sum(dim=1).clamp(min=1e-12).sqrt()  # [vocab]
    tops = [
        (((chunk - mean) @ head.t()) / spread).topk(count, dim=1).indices
        for chunk in torch.split(directions, _FEATURES_AT_ONCE)
    ]
    return torch.cat(tops)


def label(
    tokens: FeatureTokens, source: str | None, tokenizer: PreTrainedTokenizerBase, *, dead: bool
) -> str:
    """Say in a few words what the feature was seen to be active on."""
    if dead or len(tokens.token_ids) == 0:
        return "dead"
    words = _distinct_words(tokens, tokenizer)
    script = _script([word for word, _ in words])
    if words and words[0][1] >= _ALONE:
        text = f"token '{words[0][0]}'"
    else:
        text = " · ".join(word for word, _ in words[:LABEL_TOKENS]) or "parts of characters"
    kinds = [kind for kind in (script and f"{script} script", source and f"mostly {source}") if kind]
    return f"{text} ({', '.join(kinds)})" if kinds else text


def _distinct_words(tokens: FeatureTokens, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, float]]:
    """Join tokens that differ in case or spaces only; leave out parts of characters."""
    words: dict[str, tuple[str, float]] = {}
    for token_id, share in zip(tokens.token_ids.tolist(), tokens.shares.tolist(), strict=True):
        text = token_text(tokenizer, token_id)
        if "\ufffd" in text:
            continue
        shown = text.strip() or repr(text)[1:-1].replace(" ", "␣")
        key = shown.lower()
        word, so_far = words.get(key, (shown, 0.0))
        words[key] = (word, so_far + share)
    return list(words.values())


def _script(words: Sequence[str]) -> str | None:
    """The writing system when most letters are of one that is not Latin."""
    letters = [letter for word in words for letter in word if letter.isalpha()]
    scripts = [unicodedata.name(letter, "").split(" ")[0].split("-")[0] for letter in letters]
    for script in sorted(set(scripts) - {"LATIN", ""}):
        if scripts.count(script) > len(scripts) * 0.6:
            return "Chinese" if script == "CJK" else script.capitalize()
    return None


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return one token as text; bytes that are no whole character appear as U+FFFD."""
    text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _final_norm_weight(host: HostModel) -> Tensor:
    """The weight of the last norm outside the layers, ones where the host has none."""
    for name, parameter in reversed(list(host.model.base_model.named_parameters())):
        inside_a_layer = any(part.isdigit() for part in name.split("."))
        if name.endswith("weight") and parameter.shape == (host.d_model,) and not inside_a_layer:
            return parameter.float().cpu()
    return torch.ones(host.d_model)
