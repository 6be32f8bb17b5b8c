"""SAELens reads our folders and we read SAELens's, with the same activations and reconstructions.

Runs where sae-lens is installed, in an environment of its own, and needs nothing else of ours but pytest:
`python -m pytest --noconftest tests/sae/test_saelens_agreement.py -s`.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.config_file import ARCHITECTURES, Architecture
from steerd.sae.sae_file import load_sae, save_sae
from tests.tiny_saes import bundle_of, random_sae

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of sae-lens and what it imports
    sae_lens = pytest.importorskip("sae_lens")

pytestmark = pytest.mark.filterwarnings("ignore")

D_MODEL, D_SAE = 576, 4608
TOLERANCE = 1e-5  # absolute and relative, float32


def sparse_sae(architecture: Architecture) -> SparseAutoencoder:
    """Few features are active, so that hardly a pre-activation lies within rounding of a threshold."""
    sae = random_sae(D_MODEL, D_SAE, architecture=architecture)
    return replace(sae, b_enc=sae.b_enc - 2.5)


def rows() -> Tensor:
    return torch.randn(256, D_MODEL, generator=torch.Generator().manual_seed(1))


# Any: sae_lens is not installed where types are checked.
def assert_agreement(ours: Any, theirs: Any, case: str) -> None:
    """Both SAEs on the same rows; prints the largest differences for the record."""
    x = rows()
    with torch.no_grad():
        their_acts = theirs.encode(x)
        their_output = theirs.decode(their_acts)
    our_acts = ours.encode(x)
    our_output = ours.decode(our_acts)
    acts, output = (our_acts - their_acts).abs().max(), (our_output - their_output).abs().max()
    l0 = (our_acts > 0).float().sum(dim=1).mean()
    print(f"{case}: feature_acts differ by {acts:.1e}, reconstructions by {output:.1e}; L0 {l0:.1f}")  # noqa: T201

    torch.testing.assert_close(our_acts, their_acts, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(our_output, their_output, rtol=TOLERANCE, atol=TOLERANCE)
    assert torch.equal(our_acts > 0, their_acts > 0)
    assert l0 > 1


@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelens_reads_our_folder(tmp_path: Path, architecture: Architecture, weights_dtype: torch.dtype):
    sae = sparse_sae(architecture)
    save_sae(tmp_path / "sae", bundle_of(sae), weights_dtype=weights_dtype)

    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae")

    assert theirs.cfg.architecture() == architecture
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    assert theirs.cfg.metadata.model_name == "tiny-host"
    assert theirs.W_enc.dtype == torch.float32
    assert_agreement(load_sae(tmp_path / "sae").sae, theirs, f"ours {architecture} {weights_dtype}")


@pytest.mark.parametrize("b_dec_on_input", [False, True])
@pytest.mark.parametrize(
    ("architecture", "ranked_by_norm"),
    [("standard", False), ("jumprelu", False), ("topk", False), ("topk", True)],
)
def test_we_read_a_folder_that_saelens_saved(
    tmp_path: Path, architecture: Architecture, ranked_by_norm: bool, b_dec_on_input: bool
):
    """With the conventions that we fold: b_dec taken from the input, and decoder norms in a TopK's choice."""
    sae = sparse_sae(architecture)
    sae.W_dec.mul_(torch.linspace(0.5, 2.0, D_SAE).unsqueeze(1))
    sae.b_dec.mul_(20)
    save_sae(tmp_path / "ours", bundle_of(sae))
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    theirs.cfg.apply_b_dec_to_input = b_dec_on_input
    if ranked_by_norm:
        theirs.cfg.rescale_acts_by_decoder_norm = True

    theirs.save_model(tmp_path / "theirs")
    assert (
        json.loads((tmp_path / "theirs" / "cfg.json").read_text())["apply_b_dec_to_input"] == b_dec_on_input
    )
    ours = load_sae(tmp_path / "theirs").sae

    case = f"theirs {architecture} b_dec_on_input={b_dec_on_input} ranked_by_norm={ranked_by_norm}"
    assert_agreement(ours, sae_lens.SAE.load_from_disk(tmp_path / "theirs"), case)
