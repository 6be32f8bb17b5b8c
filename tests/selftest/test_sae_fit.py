"""SAEs that read something else than what they were trained on are told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steerd.sae.activation_function import ReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.sae_file import SaeBundle
from steerd.selftest.plain_rows import PlainRows
from steerd.selftest.report import Status
from steerd.selftest.sae_fit import check_sae_fit
from steerd.steering.loaded_saes import LoadedSaes
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import bundle_of, tiny_sae

HOST = make_tiny_host("llama")


def recording(bundle: SaeBundle, variance_explained: object) -> SaeBundle:
    provenance = bundle.metadata.provenance | {"metrics": {"variance_explained": variance_explained}}
    return replace(bundle, metadata=replace(bundle.metadata, provenance=provenance))


def perfect() -> SaeBundle:
    """Two features a dimension give back every row as it was."""
    both = torch.cat([torch.eye(32), -torch.eye(32)])
    zeros = torch.zeros(32)
    sae = SparseAutoencoder(
        W_enc=both.T.contiguous(), b_enc=torch.zeros(64), W_dec=both, b_dec=zeros, activation=ReLU()
    )
    return bundle_of(sae, model_name=HOST.name)


def served(**bundles: SaeBundle) -> tuple[LoadedSaes, PlainRows]:
    saes = LoadedSaes(HOST)
    for name, bundle in bundles.items():
        saes.add(name, bundle)
    return saes, PlainRows(HOST, list(b"the quick brown fox"), [loaded.hook_point for loaded in saes])


def test_an_sae_that_explains_what_its_record_says_passes() -> None:
    finding = check_sae_fit(*served(perfect=recording(perfect(), 0.8)))

    assert finding.status is Status.PASSED
    assert finding.worst == pytest.approx(1 / 0.8)


def test_an_sae_that_explains_far_less_is_a_warning() -> None:
    random = tiny_sae(HOST, "blocks.1.hook_resid_post")

    finding = check_sae_fit(*served(fits=recording(perfect(), 0.9), lost=recording(random, 0.9)))

    assert finding.status is Status.WARNING
    assert finding.remark.startswith("least by lost")


@pytest.mark.parametrize("recorded", [None, "high", 0, float("nan")])
def test_a_record_without_a_number_says_nothing(recorded: object) -> None:
    assert check_sae_fit(*served(quiet=recording(perfect(), recorded))).status is Status.SKIPPED
