from __future__ import annotations

import pytest

from steerd.errors import HostError
from steerd.host.hook_point import SITES, HookPoint


@pytest.mark.parametrize("site", SITES)
def test_printed_form_is_read_back(site):
    point = HookPoint(12, site)

    assert str(point) == f"blocks.12.hook_{site}"
    assert HookPoint.parse(str(point)) == point


@pytest.mark.parametrize(
    "text",
    [
        "",
        "blocks.1.hook_resid_mid",
        "blocks.-1.hook_resid_post",
        "blocks.1.hook_resid_post ",
        "layers.1.resid_post",
    ],
)
def test_anything_else_is_refused_with_the_form(text):
    with pytest.raises(HostError, match=r"blocks\.LAYER\.hook_SITE") as refused:
        HookPoint.parse(text)

    assert repr(text) in str(refused.value)


def test_points_follow_each_other_in_the_order_of_a_forward():
    order = ["resid_pre", "attn_out", "resid_post"]
    points = [HookPoint(layer, site) for layer in (0, 1) for site in order]
    for place, point in enumerate(points):
        assert [point.follows(other) for other in points] == [i <= place for i in range(len(points))]
    attn, mlp = HookPoint(1, "attn_out"), HookPoint(1, "mlp_out")
    assert not attn.follows(mlp)
    assert not mlp.follows(attn)
    assert mlp.follows(mlp)
    assert mlp.follows(HookPoint(1, "resid_pre"))
    assert HookPoint(1, "resid_post").follows(mlp)
