"""The predicted effect of every node of a prompt on its metric, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.steering.loaded_saes import LoadedSae
from steerd.studies.attribution.active_features import ActiveFeatures
from steerd.studies.attribution.direct_effects import after_last_layer, direct_gradient
from steerd.studies.attribution.gradients import RowGradients, row_gradients
from steerd.studies.attribution.integrated_gradients import GroupedPaths
from steerd.studies.attribution.scored_prompt import ScoredPrompt
from steerd.studies.attribution.wish import Method

EMBEDDING = HookPoint(0, "resid_pre")
"""What enters the first layer: the tokens' embeddings, and the positions' where the host adds these."""


@dataclass(slots=True)
class NodeEffects:
    """Predicts by how much the metric would fall if a node were taken out, by one of the methods.

    A node's effect is what it adds to its row times a gradient of the metric in the rows. With GRADIENT it is
    that of the host as it is. On its way from early hook points it passes through the errors of later SAEs as
    well as through their features, since nothing is spliced in: predicted is the total effect, and to first
    order that of an ablation in the host itself (attribution patching with a baseline of zero: Nanda 2023;
    Syed et al., arXiv 2310.10348; of features and errors, with pass-through gradients, Marks et al., arXiv
    2403.19647). DIRECT is told in `direct_effects`, INTEGRATED_GRADIENTS in `integrated_gradients`; there
    errors follow the mean gradient of all paths, and embeddings, which have no path, GRADIENT.
    """

    prompt: ScoredPrompt
    saes: Sequence[LoadedSae]
    counted: Tensor
    """Which rows have nodes, [tokens]."""
    method: Method
    paths: GroupedPaths
    """Of INTEGRATED_GRADIENTS."""
    explained: list[ActiveFeatures] = field(default_factory=list)
    """Of each SAE."""
    predicted: dict[int, Tensor] = field(default_factory=dict)
    """The effects of its features, [nodes], by the number of an SAE; those of GRADIENT until it is done."""
    gradients: dict[int, Tensor] = field(default_factory=dict)
    """Likewise the gradient [tokens, d_model] that its errors follow."""
    done: set[int] = field(default_factory=set)
    """The numbers of the SAEs that are."""
    clean: RowGradients | None = None
    """The prompt as it is."""

    def num_slices(self, copies: int) -> int:
        """How many slices `run` has, of so many copies at most."""
        if self.method is not Method.INTEGRATED_GRADIENTS:
            return 1
        paths = sum(len(explained) > 0 for explained in self.explained) if self.clean else len(self.saes)
        return 1 + paths * -(-self.paths.num_copies // copies)

    def run(self, copies: int) -> Iterator[None]:
        """Fill in all fields."""
        self._run_clean()
        yield
        if self.method is Method.INTEGRATED_GRADIENTS:
            for number, explained in enumerate(self.explained):
                if len(explained):
                    yield from self._integrate(number, copies)

    def error_effects(self, number: int) -> Tensor:
        """Of an SAE's error in each row, [tokens]."""
        return (self.explained[number].error * self.gradients[number]).sum(dim=1)

    def embedding_gradient(self) -> Tensor:
        """What embeddings follow, [tokens, d_model]."""
        assert self.clean is not None
        if self.method is Method.DIRECT:
            return direct_gradient(self.prompt, self.clean)
        return self.clean.gradients[EMBEDDING][0]

    def _run_clean(self) -> None:
        points = {EMBEDDING, after_last_layer(self.prompt.host), *(sae.hook_point for sae in self.saes)}
        self.clean = clean = row_gradients(self.prompt, sorted(points))
        self.explained = [
            ActiveFeatures.of(sae, clean.rows[sae.hook_point], self.counted) for sae in self.saes
        ]
        if self.method is Method.DIRECT:
            self._follow([direct_gradient(self.prompt, clean)] * len(self.saes))
        else:
            self._follow([clean.gradients[sae.hook_point][0] for sae in self.saes])
        # Without any active feature a path does not move, and its gradient is that of the host as it is.
        has_paths = self.method is Method.INTEGRATED_GRADIENTS
        self.done = {n for n, explained in enumerate(self.explained) if not (has_paths and len(explained))}

    def _follow(self, gradients: Sequence[Tensor]) -> None:
        """Have each SAE's nodes follow one gradient [tokens, d_model]."""
        for number, (explained, gradient) in enumerate(zip(self.explained, gradients, strict=True)):
            self.predicted[number], self.gradients[number] = explained.effects(gradient), gradient

    def _integrate(self, number: int, copies: int) -> Iterator[None]:
        for found in self.paths.run(self.prompt, self.explained[number], copies):
            if found is not None:
                self.predicted[number], self.gradients[number] = found.predicted, found.gradient
                self.done.add(number)
            yield
