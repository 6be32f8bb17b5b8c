from __future__ import annotations

import dataclasses

import pytest
import torch

from sae_train.corpus.token_blocks import TokenBlock
from sae_train.evaluation.cross_entropy import CrossEntropy, Splice, cross_entropy
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder
from tests.sae_train.evaluation.hand_made import perfect_sae, text_blocks
from tests.tiny_saes import random_sae

HOOK_POINT = HookPoint(layer=1, site="resid_post")
MEAN = torch.linspace(-1, 1, 32)


def splice_into(host: HostModel, *, batch_tokens: int = 100, outlier_limit: float = 1e9) -> Splice:
    return Splice(
        host=host,
        hook_point=HOOK_POINT,
        blocks=text_blocks(),
        outlier_limit=outlier_limit,
        batch_tokens=batch_tokens,
    )


def log_probs(
    host: HostModel, block: TokenBlock, replacement: SparseAutoencoder | torch.Tensor | None
) -> torch.Tensor:
    """One block alone through the host, every kept row replaced, in plain words; [tokens, vocab] float64."""
    keep = torch.tensor(block.keep).unsqueeze(1)

    def edit(resid: torch.Tensor) -> torch.Tensor:
        if isinstance(replacement, SparseAutoencoder):
            new = replacement.decode(replacement.encode(resid))
        else:
            assert replacement is not None
            new = replacement.expand_as(resid)
        return torch.where(keep, new, resid)

    handle = host.attach(HOOK_POINT, edit) if replacement is not None else None
    with torch.no_grad():
        logits = host.model(input_ids=torch.tensor([block.ids])).logits[0]
    if handle is not None:
        handle.remove()
    found: torch.Tensor = logits.double().log_softmax(dim=-1)
    return found


def expected(host: HostModel, sae: SparseAutoencoder) -> CrossEntropy:
    """Loss over predicted tokens and KL over all positions, block by block."""
    variants = (None, sae, torch.zeros(32), MEAN)
    losses, divergences = [0.0] * 4, [0.0] * 4
    tokens = positions = 0
    for block in text_blocks():
        found = [log_probs(host, block, variant) for variant in variants]
        targets = torch.tensor(block.ids[1:]).unsqueeze(1)
        for i, q in enumerate(found):
            losses[i] -= float(q[:-1].gather(1, targets).sum())
            divergences[i] += float((found[0].exp() * (found[0] - q)).sum())
        tokens += len(block.ids) - 1
        positions += len(block.ids)
    means, kls = [x / tokens for x in losses], [x / positions for x in divergences]
    return CrossEntropy(
        tokens=tokens,
        clean=means[0],
        spliced=means[1],
        zero_ablated=means[2],
        mean_ablated=means[3],
        positions=positions,
        kl_spliced=kls[1],
        kl_zero_ablated=kls[2],
        kl_mean_ablated=kls[3],
    )


@pytest.mark.parametrize("batch_tokens", [1, 40, 1000])
def test_every_number_is_that_of_the_blocks_alone(tiny_host: HostModel, batch_tokens: int) -> None:
    sae = random_sae(tiny_host.d_model)

    found = cross_entropy(sae, splice_into(tiny_host, batch_tokens=batch_tokens), MEAN)

    alone = dataclasses.asdict(expected(tiny_host, sae))
    assert dataclasses.asdict(found) == pytest.approx(alone, rel=1e-4, abs=1e-6)
    assert found.kl_spliced > 1e-4  # the SAE changes something, or nothing was compared


def test_a_perfect_sae_recovers_everything(tiny_host: HostModel) -> None:
    found = cross_entropy(perfect_sae(tiny_host.d_model), splice_into(tiny_host), MEAN)

    assert found.recovered_from_zero == pytest.approx(1.0, abs=1e-3)
    assert found.recovered_from_mean == pytest.approx(1.0, abs=1e-3)
    assert found.kl_spliced == pytest.approx(0.0, abs=1e-6)


def test_an_sae_that_gives_zeros_recovers_nothing_of_zero_ablation(tiny_host: HostModel) -> None:
    found = cross_entropy(perfect_sae(tiny_host.d_model, shrunk_to=0.0), splice_into(tiny_host), MEAN)

    assert found.recovered_from_zero == pytest.approx(0.0, abs=1e-6)
    assert found.kl_spliced == found.kl_zero_ablated


def test_an_sae_that_gives_the_mean_recovers_nothing_of_mean_ablation(tiny_host: HostModel) -> None:
    sae = dataclasses.replace(perfect_sae(tiny_host.d_model, shrunk_to=0.0), b_dec=MEAN)

    found = cross_entropy(sae, splice_into(tiny_host), MEAN)

    assert found.recovered_from_mean == pytest.approx(0.0, abs=1e-6)
    assert found.recovered_from_zero != pytest.approx(0.0, abs=1e-3)


def test_outliers_pass_unchanged(tiny_host: HostModel) -> None:
    splice = splice_into(tiny_host, outlier_limit=1e-6)

    found = cross_entropy(random_sae(tiny_host.d_model), splice, MEAN)

    assert found.clean == found.spliced == found.zero_ablated == found.mean_ablated
    assert found.kl_spliced == found.kl_zero_ablated == found.kl_mean_ablated == 0.0


def test_progress_counts_every_predicted_token(tiny_host: HostModel) -> None:
    told: list[int] = []
    splice = dataclasses.replace(splice_into(tiny_host, batch_tokens=30), on_tokens=told.append)

    found = cross_entropy(perfect_sae(tiny_host.d_model), splice, MEAN)

    assert len(told) > 1
    assert sum(told) == found.tokens
