"""Two processes, each with half of a batch, against one with all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing

from sae_train.architectures.catalogue import build_sae
from sae_train.architectures.trainable_sae import TrainableSae, TrainingBatch
from sae_train.ranks import ALONE, Ranks
from tests.sae_train.architectures.dense_forms import D_MODEL, D_SAE, SETTINGS, randomised

SIZE, ROWS = 2, 64


def batches() -> Iterator[TrainingBatch]:
    """Whole batches: for the first step, one that begins where it ended, one whose second half is quiet."""
    generator = torch.Generator().manual_seed(0)
    for loudness in (1.0, 1.0, 0.01):
        x = torch.randn(ROWS, D_MODEL, generator=generator).double()
        x[ROWS // 2 :] *= loudness
        weights = torch.rand(ROWS, generator=generator).double()
        dead = torch.randperm(D_SAE, generator=generator) < 10
        yield TrainingBatch(x=x, dead=dead, weights=weights / weights.mean())


def part_of(batch: TrainingBatch, ranks: Ranks) -> TrainingBatch:
    rows = slice(ranks.rank * ROWS // ranks.size, (ranks.rank + 1) * ROWS // ranks.size)
    assert batch.weights is not None
    return TrainingBatch(x=batch.x[rows], dead=batch.dead, weights=batch.weights[rows], ranks=ranks)


def steps(ranks: Ranks) -> dict[str, Tensor]:
    """Everything that the steps of every architecture give, summed over the ranks."""
    found: dict[str, Tensor] = {}
    for name, settings in SETTINGS.items():
        generator = torch.Generator().manual_seed(1)
        sae = build_sae(settings, D_MODEL, D_SAE, b_dec=torch.zeros(D_MODEL), generator=generator)
        sae = randomised(sae, generator)
        for number, batch in enumerate(batches()):
            found |= {f"{name}.{number}.{key}": v for key, v in step(sae, part_of(batch, ranks)).items()}
    return found


def step(sae: TrainableSae, part: TrainingBatch) -> dict[str, Tensor]:
    sae.zero_grad()
    taken = sae(part)
    taken.loss.backward()
    numbers = {"loss": taken.loss.detach(), "mse": taken.mse, "l0": taken.l0.double()} | taken.parts
    gradients = {name: p.grad for name, p in sae.named_parameters() if p.grad is not None}
    summed = {name: part.ranks.sum(value) for name, value in (numbers | gradients).items()}
    return summed | {"fired": part.ranks.sum(taken.fired.double()) > 0}


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=SIZE)
    found = steps(Ranks(rank=rank, size=SIZE))
    save_file({name: value.contiguous() for name, value in found.items()}, f"{folder}/{rank}.safetensors")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def shared_steps(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two real processes found."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(run_rank, args=(str(folder),), nprocs=SIZE)  # type: ignore[no-untyped-call]
    return [load_file(folder / f"{rank}.safetensors") for rank in range(SIZE)]


@pytest.fixture(scope="module")
def own_steps() -> dict[str, Tensor]:
    return steps(ALONE)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_give_the_step_of_one(
    name: str, own_steps: dict[str, Tensor], shared_steps: list[dict[str, Tensor]]
) -> None:
    mine = {key: value for key, value in own_steps.items() if key.startswith(f"{name}.")}

    assert len(mine) >= 3 * 8
    for shared in shared_steps:
        for key, value in mine.items():
            torch.testing.assert_close(
                shared[key], value, rtol=1e-9, atol=1e-12, msg=lambda t, k=key: f"{k}: {t}"
            )
