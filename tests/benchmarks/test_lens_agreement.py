from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.lens_agreement import ABLATING, Ours, Seen, compared, finish, share
from benchmarks.lens_peers.job import TOP, Job, LookedAt
from benchmarks.report import Report
from steerd.engine.steered_forward import SteeredForward
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Ablate, FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Scope
from steerd.steering.step_plan import StepPlanner
from tests.engine.requests import SHORT
from tests.studies.steered import plain_logits, plain_rows, steered
from tests.tiny_saes import tiny_sae

CHOSEN = (5, 97, 256)
TOLERANCE = 1e-4


def ours_on(host: HostModel) -> tuple[Ours, StepPlanner]:
    saes = LoadedSaes(host)
    for seed, (name, layer) in enumerate([(ABLATING, 0), ("late", 2)]):
        saes.add(name, tiny_sae(host, f"blocks.{layer}.hook_resid_post", seed=seed))
    planner = StepPlanner(host, saes, 0)
    return Ours(host, saes, SteeredForward(host, planner), CHOSEN), planner


@pytest.mark.parametrize("ablates", [False, True])
def test_what_we_see_is_what_the_plain_host_does(tiny_host: HostModel, ablates: bool) -> None:
    ours, planner = ours_on(tiny_host)
    feature = ours.strongest(SHORT)
    seen = ours.seen(LookedAt(token_ids=list(SHORT), ablated=feature if ablates else None))
    planner.close()

    ablate = Intervention(
        target=FeatureRef(ABLATING, feature), operation=Ablate(), scope=Scope(include_special_tokens=True)
    )
    text = steered(SHORT, *[ablate] * ablates)
    expected = plain_logits(tiny_host, ours.saes, text).log_softmax(dim=-1)
    torch.testing.assert_close(seen["logprobs"][2], expected[:, list(CHOSEN)], rtol=0, atol=TOLERANCE)
    assert torch.equal(seen["likeliest"][2], expected.argmax(dim=-1))
    for loaded in ours.saes:
        rows = plain_rows(tiny_host, ours.saes, text, loaded.hook_point)
        acts = loaded.sae.encode(rows)
        values = acts.sort(dim=1, descending=True).values[:, :TOP]
        torch.testing.assert_close(seen[f"{loaded.name}.values"], values, rtol=TOLERANCE, atol=TOLERANCE)
        torch.testing.assert_close(seen[f"{loaded.name}.norms"], rows.norm(dim=1), rtol=1e-4, atol=TOLERANCE)
        errors = (rows - loaded.sae.decode(acts)).norm(dim=1)
        torch.testing.assert_close(seen[f"{loaded.name}.errors"], errors, rtol=1e-4, atol=TOLERANCE)
    plain = plain_logits(tiny_host, ours.saes, steered(SHORT)).log_softmax(dim=-1)
    assert torch.allclose(plain, expected, atol=0.01) is not ablates


def seen_of(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "logprobs": -torch.rand(3, 4, 5, generator=generator),
        "likeliest": torch.arange(12).view(3, 4),
        "sae.values": 10 * torch.rand(4, TOP, generator=generator),
        "sae.features": torch.arange(4 * TOP).view(4, TOP),
        "sae.norms": torch.full((4,), 50.0),
        "sae.errors": torch.full((4,), 5.0),
    }


def judged(ours: Seen, tmp_path: Path) -> dict[str, bool]:
    """Whether each target is kept, by name."""
    report = Report("lens_agreement", out=tmp_path / "result.json")
    finish(report, [compared(LookedAt(token_ids=[1, 2, 3, 4]), ours, seen_of(1), ["sae"])])
    return {target.name: target.ok for target in report._targets}


def test_the_same_on_both_sides_keeps_every_target(tmp_path: Path) -> None:
    assert all(judged(seen_of(1), tmp_path).values())


@pytest.mark.parametrize(
    ("name", "change", "target"),
    [
        ("logprobs", 0.01, "largest_logprob_difference_nats"),
        ("sae.values", 0.01, "largest_activation_difference_share"),
        ("sae.norms", 0.1, "largest_row_length_difference_share"),
        ("sae.errors", 0.1, "largest_error_length_difference_share"),
        ("likeliest", 1, "same_likeliest"),
        ("sae.features", 1, "same_strongest"),
    ],
)
def test_every_difference_is_seen(name: str, change: float, target: str, tmp_path: Path) -> None:
    ours = seen_of(1)
    ours[name].view(-1)[0] += change

    kept = judged(ours, tmp_path)

    assert [name for name, ok in kept.items() if not ok] == [target]


def test_a_share_is_of_the_largest_of_a_row() -> None:
    theirs = torch.tensor([[100.0, 1.0], [2.0, 0.0]])
    ours = torch.tensor([[100.0, 2.0], [2.0, 0.5]])

    assert share(ours, theirs) == 0.25
    assert share(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 4.0])) == 0.25


def test_a_job_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.lens_peers.job import read_job

    job = Job(
        host_folder="host",
        sae_folders={"a": "folder"},
        sae_layers={"a": 3},
        ablating="a",
        chosen=[1, 2],
        texts=[LookedAt(token_ids=[1]), LookedAt(token_ids=[2], ablated=7)],
        found="found",
    )
    job.write(tmp_path / "job.json")
    monkeypatch.setattr("sys.argv", ["peer", str(tmp_path / "job.json")])

    assert read_job() == job
