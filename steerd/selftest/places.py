"""Where the probes steer and what they test: features and directions, and what they are on the text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice

import torch

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.selftest.plain_rows import PlainRows
from steerd.steering.intervention import Direction, FeatureRef, unit_direction
from steerd.steering.loaded_saes import LoadedSae

PUSH = 0.3  # of the median length of a row


@dataclass(frozen=True, slots=True)
class Place:
    """A target, what moves a row there by `PUSH` of its length, and what it is on the ordinary rows."""

    target: FeatureRef | Direction
    push: float
    acts: tuple[float, ...]

    @property
    def largest(self) -> float:
        """The most that it is."""
        return max(self.acts)


def direction_points(host: HostModel) -> list[HookPoint]:
    """Where the directions of no SAE are."""
    return [HookPoint(0, "resid_post"), HookPoint(host.num_layers // 2, "resid_pre")]


def feature_places(loaded: LoadedSae, rows: PlainRows, count: int) -> list[Place]:
    """The features that are the most active on the text, others where there are fewer."""
    acts = loaded.sae.encode(rows.ordinary_at(loaded.hook_point))  # [ordinary, d_sae]
    push = PUSH * rows.median_norm(loaded.hook_point)
    strongest = acts.mean(dim=0).argsort(descending=True)[:count].tolist()
    return [
        Place(
            target=FeatureRef(loaded.name, feature),
            push=push / (float(loaded.sae.W_dec[feature].norm()) or 1.0),
            acts=tuple(acts[:, feature].tolist()),
        )
        for feature in islice(cycle(strongest), count)
    ]


def direction_place(point: HookPoint, rows: PlainRows, rank: int = 0) -> Place:
    """The direction in which the row that is `rank` less strange than the strangest differs from the mean."""
    differences = rows.ordinary_at(point) - rows.ordinary_at(point).mean(dim=0)
    strange = differences.norm(dim=-1).argsort(descending=True)[rank]
    target = unit_direction(str(point), differences[strange].tolist())
    projections = rows.ordinary_at(point) @ torch.tensor(target.values, device=differences.device)
    return Place(target, PUSH * rows.median_norm(point), tuple(projections.tolist()))
