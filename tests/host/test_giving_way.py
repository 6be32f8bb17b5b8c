"""Forwards that are given up, and those that are not."""

from __future__ import annotations

import pytest
import torch

from steerd.host.giving_way import GivenUp, giving_way
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from tests.tiny_hosts import make_tiny_host

INPUT_IDS = torch.tensor([[5, 6, 7, 8]])
POINTS = [HookPoint(layer, "resid_post") for layer in (0, 1)]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def host(request: pytest.FixtureRequest) -> HostModel:
    return make_tiny_host(request.param)


def test_a_forward_ends_before_the_first_layer_at_which_it_must(host: HostModel) -> None:
    layers: list[int] = []
    handles = [host.attach(point, lambda _, n=point.layer: layers.append(n)) for point in POINTS]
    try:
        for asked, reached in ((0, []), (1, [0])):
            answers = iter([False] * asked + [True])
            layers.clear()
            with pytest.raises(GivenUp), giving_way(host, lambda answers=answers: next(answers)):
                host.activations(INPUT_IDS, None, POINTS)
            assert layers == reached
    finally:
        for handle in handles:
            handle.remove()


def test_nothing_changes_while_it_need_not_end_or_after_the_block(host: HostModel) -> None:
    plain, asked = host.activations(INPUT_IDS, None, POINTS), list[bool]()

    with giving_way(host, lambda: bool(asked.append(True))):
        beside = host.activations(INPUT_IDS, None, POINTS)
    count = len(asked)
    after = host.activations(INPUT_IDS, None, POINTS)

    assert count == len(POINTS), "the layers that ran"
    assert len(asked) == count, "the hooks are off"
    for point in POINTS:
        assert torch.equal(beside[point], plain[point])
        assert torch.equal(after[point], plain[point])
