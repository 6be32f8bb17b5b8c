"""Attribution as a study: predict every node's effect, take the strongest out for real, connect them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSae
from steerd.studies.attribution.ablation import Ablations
from steerd.studies.attribution.connections import Connections
from steerd.studies.attribution.findings import Findings, nothing_found
from steerd.studies.attribution.integrated_gradients import GroupedPaths
from steerd.studies.attribution.node_choice import (
    random_active,
    random_inactive,
    strongest_features,
    strongest_rest,
)
from steerd.studies.attribution.node_effects import NodeEffects
from steerd.studies.attribution.result import Attribution
from steerd.studies.attribution.scored_prompt import ScoredPrompt
from steerd.studies.attribution.wish import AttributionWish


class Attributing:
    """A study of which features, errors and embeddings of a prompt move a metric, and whether they do."""

    def __init__(
        self, host: HostModel, saes: Sequence[LoadedSae], wish: AttributionWish, *, slice_tokens: int
    ) -> None:
        """`saes` are those of the wish, in its order."""
        self._wish = wish
        self._prompt = ScoredPrompt(host, wish.prompt_ids, wish.metric)
        self._copies = max(1, slice_tokens // self._prompt.num_rows)
        self._effects = NodeEffects(
            self._prompt, saes, _counted(host, wish), wish.method, GroupedPaths(wish.groups, wish.steps)
        )
        self._findings: Findings | None = None  # from the first slice on
        self._complete = False

    def run(self) -> Iterator[Progress]:
        """One pass through the host a slice: those that predict, those that measure, those that connect."""
        for done, _ in enumerate(self._passes(), start=1):
            yield Progress(done, max(done, self._num_passes()), "passes")
        self._complete = True

    def result(self) -> Attribution:
        """What is known of the SAEs that are done; measured and connected as far as it got."""
        if self._effects.clean is None:
            return nothing_found(self._prompt.host, self._wish)
        findings = self._findings or self._choose()
        return findings.told(self._effects, self._wish, complete=self._complete)

    def _passes(self) -> Iterator[None]:
        yield from self._effects.run(self._copies)
        self._findings = findings = self._choose()
        if findings.ablations is not None:
            yield from findings.ablations.run()
        if self._wish.graph:
            findings.connections = Connections(self._effects, [*findings.top, *findings.rest])
            yield from findings.connections.run(self._copies)

    def _choose(self) -> Findings:
        effects, wish = self._effects, self._wish
        top, rest = strongest_features(effects, wish.max_nodes), strongest_rest(effects, wish.max_nodes)
        if not wish.check:
            return Findings(top, rest, [])
        generator = torch.Generator().manual_seed(wish.seed)
        active = random_active(effects, top, wish.controls, generator)
        controls = [*active, *random_inactive(effects, wish.controls, generator)]
        parts = [node.part for node in (*top, *controls)]
        return Findings(top, rest, controls, Ablations(self._prompt, parts, self._copies))

    def _num_passes(self) -> int:
        """All there will be; an estimate until the nodes are chosen."""
        wish, findings = self._wish, self._findings
        top = len(findings.top) if findings else wish.max_nodes
        measuring = -(-(top + 2 * wish.controls) // self._copies) if wish.check else 0
        if findings is not None and findings.ablations is not None:
            measuring = findings.ablations.num_slices
        connecting = 1 + -(-(top + 1) // self._copies) if wish.graph else 0
        return self._effects.num_slices(self._copies) + measuring + connecting


def _counted(host: HostModel, wish: AttributionWish) -> Tensor:
    """Which rows of the prompt have nodes, [tokens]."""
    counts = [
        wish.include_special_tokens or (position > 0 and token_id not in host.special_token_ids)
        for position, token_id in enumerate(wish.prompt_ids)
    ]
    return torch.tensor(counts, device=host.device)
