"""Which features are predicted to push either answer, by gradients: what is worth being tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.host.host_model import HostModel
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSae
from steerd.steering.scope import PositionRange, Scope
from steerd.studies.attribution.active_features import ActiveFeatures
from steerd.studies.attribution.integrated_gradients import GroupedPaths
from steerd.studies.attribution.metric import Metric
from steerd.studies.attribution.node_effects import NodeEffects
from steerd.studies.attribution.scored_prompt import ScoredPrompt
from steerd.studies.attribution.wish import Method

_PATHS = GroupedPaths(groups=8, steps=2)
_ALL_BUT_FIRST = Scope(positions=(PositionRange(1),))  # whose row is unlike all others


@dataclass(frozen=True, slots=True)
class Predicted:
    """An active feature: its largest activation and where, and what taking it out on all rows is predicted
    to take from the right and from the wrong answer."""

    feature: FeatureRef
    activation: float
    position: int
    right: float
    wrong: float

    @property
    def gain(self) -> float:
        """By how much the right answer is predicted to gain on the wrong one without it."""
        return self.wrong - self.right

    @property
    def intervention(self) -> Intervention:
        """What takes it out."""
        return ablation(self.feature)


@dataclass(frozen=True, slots=True)
class Addition:
    """A feature to be added on all rows, and by how much the right answer is predicted to gain by it."""

    intervention: Intervention
    gain: float


def ablation(feature: FeatureRef) -> Intervention:
    """Takes a feature out of every row but the first and those of special tokens."""
    return Intervention(target=feature, operation=Ablate(), scope=_ALL_BUT_FIRST)


class PushingFeatures:
    """Attributes how likely either answer is to the features of all rows that count, and sums over rows."""

    def __init__(
        self,
        host: HostModel,
        saes: Sequence[LoadedSae],
        prompt_ids: tuple[int, ...],
        metrics: tuple[Metric, Metric],
    ) -> None:
        """`metrics` are those of the right answer and of the wrong one."""
        self._saes = saes
        uncounted = host.special_token_ids
        self._counted = torch.tensor(
            [position > 0 and token_id not in uncounted for position, token_id in enumerate(prompt_ids)],
            device=host.device,
        )
        prompts = [ScoredPrompt(host, prompt_ids, metric) for metric in metrics]
        self._effects = [
            NodeEffects(prompt, saes, self._counted, Method.INTEGRATED_GRADIENTS, _PATHS)
            for prompt in prompts
        ]

    def num_slices(self, slice_tokens: int) -> int:
        """How many slices `run` takes."""
        return sum(effects.num_slices(_copies(effects, slice_tokens)) for effects in self._effects)

    def run(self, slice_tokens: int) -> Iterator[None]:
        """Predict, a slice at a time."""
        for effects in self._effects:
            yield from effects.run(_copies(effects, slice_tokens))

    def strongest(self) -> list[Predicted]:
        """The active features, those with the largest predicted effect on either answer first."""
        every = [each for number in range(len(self._saes)) for each in self._predicted(number)]
        return sorted(every, key=lambda each: -max(abs(each.right), abs(each.wrong)))

    def additions(self, dose: float) -> Iterator[Addition]:
        """Features that should help when so much of their recorded maximum is added to rows, best first."""
        helpful: list[tuple[float, float, FeatureRef]] = []
        for sae in self._saes:
            if sae.statistics is not None:
                strengths = dose * sae.statistics.max_activation.to(self._counted.device)
                gains = strengths * self._gain_per_unit(sae)  # [d_sae]
                features = ((gains > 0) & gains.isfinite() & (strengths > 0)).nonzero().flatten()
                named = (FeatureRef(sae.name, feature) for feature in features.tolist())
                helpful += zip(gains[features].tolist(), strengths[features].tolist(), named, strict=True)
        for gain, strength, target in sorted(helpful, key=lambda each: -each[0]):
            yield Addition(Intervention(target=target, operation=Add(strength), scope=_ALL_BUT_FIRST), gain)

    def _gain_per_unit(self, sae: LoadedSae) -> Tensor:
        """By feature, what an activation more on all rows that count is predicted to give: [d_sae]."""
        gradients = []
        for effects in self._effects:
            assert effects.clean is not None
            gradients.append(effects.clean.gradients[sae.hook_point][0])  # [tokens, d_model]
        return (gradients[0] - gradients[1])[self._counted].sum(dim=0) @ sae.sae.W_dec.T

    def _predicted(self, number: int) -> Iterator[Predicted]:
        """Of one SAE's features, by what all their nodes add up to."""
        right, wrong = (_by_feature(e.explained[number], e.predicted[number]) for e in self._effects)
        explained = self._effects[0].explained[number]
        for feature in sorted(set(explained.features.tolist())):
            own = explained.features == feature
            largest = int(explained.acts[own].argmax())
            yield Predicted(
                feature=FeatureRef(explained.sae.name, feature),
                activation=float(explained.acts[own][largest]),
                position=int(explained.positions[own][largest]),
                right=float(right[feature]),
                wrong=float(wrong[feature]),
            )


def _by_feature(explained: ActiveFeatures, predicted: Tensor) -> Tensor:
    """The effects of nodes [nodes] summed over positions: [d_sae]."""
    return predicted.new_zeros(explained.sae.sae.d_sae).index_add(0, explained.features, predicted)


def _copies(effects: NodeEffects, slice_tokens: int) -> int:
    """Copies of the prompt in one pass."""
    return max(slice_tokens // effects.prompt.num_rows, 1)
