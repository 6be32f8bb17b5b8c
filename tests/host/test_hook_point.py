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
