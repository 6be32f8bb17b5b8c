from __future__ import annotations

import pytest

from steerd.errors import NotFound, SaeFileError
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSaes
from tests.tiny_saes import bundle_of, random_sae, tiny_sae


def test_saes_are_found_by_name_in_the_order_they_were_added(tiny_host: HostModel) -> None:
    saes = LoadedSaes(tiny_host)
    for name, layer in (("late", 2), ("early", 0)):
        saes.add(name, tiny_sae(tiny_host, f"blocks.{layer}.hook_resid_post"))

    assert [sae.name for sae in saes] == ["late", "early"]
    assert len(saes) == 2
    assert saes.get("early").hook_point.layer == 0


def test_an_unknown_name_is_told_with_those_there_are(tiny_host: HostModel) -> None:
    saes = LoadedSaes(tiny_host)
    saes.add("here", tiny_sae(tiny_host, "blocks.1.hook_resid_post"))

    with pytest.raises(NotFound, match=r"no SAE named 'there'; served: here") as found:
        saes.get("there", field="interventions[0].feature.sae")

    assert (found.value.reason, found.value.field) == ("SAE_NOT_FOUND", "interventions[0].feature.sae")


def test_a_name_is_served_once(tiny_host: HostModel) -> None:
    saes = LoadedSaes(tiny_host)
    saes.add("one", tiny_sae(tiny_host, "blocks.1.hook_resid_post"))

    with pytest.raises(SaeFileError, match="two SAEs are named 'one'"):
        saes.add("one", tiny_sae(tiny_host, "blocks.1.hook_resid_post"))


def test_an_sae_of_another_width_is_refused(tiny_host: HostModel) -> None:
    with pytest.raises(SaeFileError, match=r"width 16.*d_model 32"):
        LoadedSaes(tiny_host).add("narrow", bundle_of(random_sae(16)))


@pytest.mark.parametrize("hook_point", ["blocks.3.hook_resid_post", "blocks.-1.hook_resid_post", "ln_f"])
def test_an_sae_of_a_missing_hook_point_is_refused(tiny_host: HostModel, hook_point: str) -> None:
    bundle = tiny_sae(tiny_host, hook_point)

    with pytest.raises(SaeFileError, match=hook_point.split(".")[-1]):
        LoadedSaes(tiny_host).add("elsewhere", bundle)
