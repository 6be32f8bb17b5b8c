"""What policies demand holds on the rows that leave a hook point, whatever the request does there itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.steering.intervention import (
    Ablate,
    Add,
    FeatureRef,
    Intervention,
    Limit,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
    unit_direction,
)
from steerd.steering.scope import Scope
from steerd.steering.steering import Steering
from tests.engine.recorder import run_together
from tests.engine.requests import LONG, SHORT, greedy_request
from tests.engine.serving import serving
from tests.tiny_hosts import make_tiny_host

POINT = "blocks.0.hook_resid_post"
EVERYWHERE = Scope(include_special_tokens=True)
FORBIDDEN = unit_direction(POINT, [1.0, -2.0, 3.0, 0.5] * 8)
DEMANDED = Intervention(target=FORBIDDEN, operation=Ablate(), scope=EVERYWHERE, source="policy:p@1")
NEARLY = unit_direction(POINT, [1.0, -2.0, 3.0, 0.501] * 8)


class LargestShare:
    """A hook that comes after the engine's: the largest share of a row that lies along a direction."""

    def __init__(self) -> None:
        self.value = 0.0
        self._direction = torch.tensor(FORBIDDEN.values)

    def __call__(self, rows: Tensor) -> None:
        share = (rows @ self._direction).abs() / rows.norm(dim=1)
        self.value = max(self.value, float(share.max()))


@pytest.mark.parametrize(
    "own",
    [
        (),
        (Intervention(target=NEARLY, operation=Add(50.0), scope=EVERYWHERE),),
        (Intervention(target=NEARLY, operation=Set(-50.0)),),
        (Intervention(target=NEARLY, operation=Scale(30.0), preserve_norm=True),),
        (Intervention(target=NEARLY, operation=Limit(low=20.0)),),
        (Intervention(target=WholeSae("sae-0"), operation=Reconstruct()),),
        tuple(Intervention(target=FeatureRef("sae-0", n), operation=Add(5.0)) for n in range(20)),
    ],
    ids=["nothing", "add", "set", "scale", "limit", "reconstruct", "features"],
)
def test_an_ablation_holds_after_the_requests_own_edits(own: tuple[Intervention, ...]) -> None:
    host = make_tiny_host()
    requests = [
        replace(greedy_request(name, prompt, 6), steering=Steering(interventions=(*own, DEMANDED)))
        for name, prompt in (("short", SHORT), ("long", LONG))
    ]
    free = replace(greedy_request("free", SHORT, 3), steering=Steering(interventions=own))
    with serving(host=host) as engine:
        run_together(engine, [replace(requests[0], id="first")])  # the engine's hook is there from now on
        held, let_go = LargestShare(), LargestShare()
        handle = host.attach(HookPoint.parse(POINT), held)
        run_together(engine, requests)
        handle.remove()
        host.attach(HookPoint.parse(POINT), let_go)
        run_together(engine, [free])

    assert held.value < 1e-5
    assert let_go.value > 1e-2
