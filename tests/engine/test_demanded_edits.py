"""What policies demand holds on the rows that leave a hook point, whatever the request does there itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import SaeBundle
from steerd.steering.intervention import (
    Ablate,
    Add,
    FeatureRef,
    Intervention,
    Limit,
    Operation,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
    unit_direction,
)
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Scope
from steerd.steering.steering import Steering
from tests.engine.recorder import run_together
from tests.engine.requests import LONG, SHORT, greedy_request
from tests.engine.serving import serving
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import bundle_of, random_sae

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


def loose_sae(host: HostModel) -> SaeBundle:
    """Like a trained one: encoders see their own directions, but not to the full."""
    sae = random_sae(host.d_model, seed=4)
    W_enc = 0.75 * sae.W_dec.T + 0.03 * sae.W_enc
    return bundle_of(replace(sae, W_enc=W_enc), model_name=host.name, hook_point=POINT)


@pytest.mark.parametrize(
    ("operation", "most"), [(Ablate(), 0.0), (Set(2.0), 2.0), (Limit(high=3.0), 3.0), (Scale(0.0), 0.0)]
)
def test_a_feature_is_brought_all_the_way_whatever_was_added_along_its_direction(
    operation: Operation, most: float
) -> None:
    host = make_tiny_host()
    saes = LoadedSaes(host)
    saes.add("loose", loose_sae(host))
    feature = FeatureRef("loose", 7)
    sae = saes.get("loose").sae
    push = unit_direction(POINT, sae.W_dec[7].tolist())
    demanded = Intervention(target=feature, operation=operation, scope=EVERYWHERE, source="policy:p@1")
    own = Intervention(target=push, operation=Add(60.0), scope=EVERYWHERE)
    after: list[Tensor] = []

    with serving(host=host, saes=saes) as engine:
        warm = replace(greedy_request("warm", SHORT, 2), steering=Steering(interventions=(demanded,)))
        run_together(engine, [warm])  # the engine's hook is there from now on
        host.attach(HookPoint.parse(POINT), lambda rows: after.append(sae.encode(rows)[:, 7]))
        pushed = Steering(interventions=(own, demanded))
        run_together(engine, [replace(greedy_request("pushed", LONG, 6), steering=pushed)])
        largest = float(torch.cat(after).max())
        after.clear()
        run_together(
            engine, [replace(greedy_request("free", LONG, 2), steering=Steering(interventions=(own,)))]
        )

    assert 0.5 < sae.response(7) < 0.9
    assert largest == pytest.approx(most, abs=1e-3)
    assert float(torch.cat(after).max()) > 20.0
