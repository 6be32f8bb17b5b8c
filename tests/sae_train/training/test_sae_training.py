from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from sae_train.activations.activation_scale import geometric_median
from sae_train.architectures.batch_topk import BatchTopKSettings
from sae_train.architectures.catalogue import Settings, build_sae
from sae_train.config import TrainingConfig
from sae_train.ranks import ALONE, Ranks
from sae_train.training.sae_training import SaeTraining, TrainingError
from tests.sae_train.planted_rows import ACTIVE, D_MODEL, planted_directions, planted_rows

BATCH = 256


def training(settings: Settings, *, steps: int, ranks: Ranks = ALONE, rate: float = 5e-3) -> SaeTraining:
    config = TrainingConfig(tokens=steps * BATCH, batch_size=BATCH, dead_window_tokens=5_000)
    generator = torch.Generator().manual_seed(0)
    b_dec = geometric_median(next(batches()))
    sae = build_sae(settings, D_MODEL, 48, b_dec=b_dec, generator=generator)
    return SaeTraining(sae, config, learning_rate=rate, ranks=ranks)


def batches() -> Iterator[Tensor]:
    """Batches [BATCH, D_MODEL] of planted rows, scaled to a mean square near 1."""
    rows = planted_rows(16_000, seed=1)
    rows = rows / rows.square().mean().sqrt()
    while True:
        yield from rows.split(BATCH)[:-1]


def run(learner: SaeTraining, steps: int, stream: Iterator[Tensor]) -> SaeTraining:
    for _ in range(steps):
        learner.step(next(stream))
    return learner


def test_planted_features_are_recovered() -> None:
    learner = run(training(BatchTopKSettings(k=ACTIVE), steps=300), 300, batches())

    similarity = (planted_directions() @ learner.sae.W_dec.detach().t()).max(dim=1).values
    assert similarity.mean() > 0.9  # of random directions: 0.45
    assert (similarity > 0.9).float().mean() > 0.7


def test_a_restored_training_goes_on_with_the_same_bits() -> None:
    whole, stream = training(BatchTopKSettings(k=ACTIVE), steps=40), batches()
    run(whole, 25, stream)
    state = {name: tensor.clone() for name, tensor in whole.state().items()}
    rest = [next(stream) for _ in range(15)]
    run(whole, 15, iter(rest))

    resumed = training(BatchTopKSettings(k=ACTIVE), steps=40)
    resumed.restore(state)
    run(resumed, 15, iter(rest))

    assert resumed.steps == whole.steps == 40
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(bad: float) -> None:
    learner = training(BatchTopKSettings(k=ACTIVE), steps=10)
    before = {name: tensor.clone() for name, tensor in learner.sae.state_dict().items() if "W_" in name}

    with pytest.raises(TrainingError, match=r"at step 0; .*learning_rate below 0.005"):
        learner.step(torch.full((BATCH, D_MODEL), bad))

    for name, tensor in before.items():
        assert torch.equal(tensor, learner.sae.state_dict()[name]), name


def test_dead_features_are_revived() -> None:
    shares = []
    for alpha in (0.0, 1 / 32):
        learner = training(BatchTopKSettings(k=ACTIVE, auxk_alpha=alpha), steps=300)
        learner.sae.b_enc.data[:16] = -2.0
        stream = batches()
        run(learner, 299, stream)
        shares.append(learner.step(next(stream)).dead_share)

    assert shares[0] > shares[1]


def test_rows_that_weigh_more_are_rebuilt_better() -> None:
    errors = []
    for weight in (1.0, 20.0):
        learner, stream = training(BatchTopKSettings(k=ACTIVE), steps=200), batches()
        weights = torch.ones(BATCH)
        weights[:8] = weight
        fixed = next(stream)[:8]  # the same eight rows lead every batch
        for _ in range(200):
            learner.step(torch.cat([fixed, next(stream)[8:]]), weights / weights.mean())
        x_hat = learner.sae.to_inference(1.0).to(dtype=torch.float32)
        acts = x_hat.encode(fixed)
        top = torch.zeros_like(acts).scatter(1, *_largest(acts))
        errors.append(float((fixed - x_hat.decode(top)).square().mean()))

    assert errors[1] < errors[0]


def _largest(acts: Tensor) -> tuple[Tensor, Tensor]:
    top = acts.topk(ACTIVE, dim=1)
    return top.indices, top.values


def test_two_processes_train_the_same_sae_as_one(tmp_path: Path) -> None:
    alone = run(training(BatchTopKSettings(k=ACTIVE), steps=30), 30, batches())

    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_train_as_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)

    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, tensor in alone.sae.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-4)


def _train_as_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    learner = training(BatchTopKSettings(k=ACTIVE), steps=30, ranks=Ranks(rank=rank, size=2))
    half: Callable[[Tensor], Tensor] = lambda batch: batch[rank * BATCH // 2 :][: BATCH // 2]  # noqa: E731
    run(learner, 30, (half(batch) for batch in batches()))
    torch.save(learner.sae.state_dict(), folder / f"{rank}.pt")
    distributed.destroy_process_group()
