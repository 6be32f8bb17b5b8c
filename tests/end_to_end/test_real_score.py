"""`steerd serve` with the default host and the starters, asked how likely texts are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from steerd.__main__ import main
from steerd.cli.server_process import free_ports, server_process, stop, wait_until_serving
from steerd.client import Client
from steerd.client_messages import ScoreCall
from steerd.config import Config
from steerd.engine.request import GenerationRequest
from steerd.host.host_model import HostModel
from steerd.host.text import encode_continuation, encode_prompt
from steerd.loading import load_saes
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Scale
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Phase, Scope
from steerd.steering.steering import Steering
from tests.engine.reference import plain_hooks
from tests.engine.requests import sampling

pytestmark = pytest.mark.real_host

TOLERANCE = 1e-3
START_SECONDS = 300.0
END_SECONDS = 120.0
PROMPT = "The weather in London today is"
CONTINUATIONS = (" cold and wet.", " hot", " a spoonful of sugar, please")
FEATURES = (FeatureRef("starter-9", 11), FeatureRef("starter-14", 222), FeatureRef("starter-21", 7))
EDITS = (
    Intervention(target=FEATURES[0], operation=Add(20.0), scope=Scope(phase=Phase.GENERATED)),
    Intervention(target=FEATURES[1], operation=Scale(4.0)),
    Intervention(target=FEATURES[2], operation=Ablate()),
    Intervention(target=FeatureRef("starter-21", 8), operation=Add(30.0)),
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("real")
    port, metrics_port = free_ports(2)
    config = folder / "steerd.toml"
    config.write_text(f"[server]\nport = {port}\n[monitoring]\nport = {metrics_port}\n")
    with server_process(config, log=folder / "server.log") as process:
        wait_until_serving(process, f"127.0.0.1:{port}", timeout_seconds=START_SECONDS)
        yield f"127.0.0.1:{port}"
        assert stop(process, timeout_seconds=END_SECONDS) == 0


@pytest.fixture(scope="module")
def saes(real_host: HostModel) -> LoadedSaes:
    return load_saes(Config(), real_host)


def reference(
    host: HostModel, saes: LoadedSaes, continuation: str, interventions: tuple[Intervention, ...]
) -> tuple[list[int], torch.Tensor]:
    """The continuation's ids, and the log-softmax [tokens, vocab] before each in a plain steered forward."""
    prompt = encode_prompt(host.tokenizer, PROMPT)
    ids = encode_continuation(host.tokenizer, continuation)
    rows = [*prompt, *ids[:-1]]
    request = GenerationRequest(
        id="plain",
        prompt_ids=tuple(prompt),
        sampling=sampling(1),
        steering=Steering(interventions=interventions),
        continuation=tuple(ids),
    )
    with plain_hooks(host, saes, request, rows), torch.no_grad():
        logits = host.model(input_ids=torch.tensor([rows]), use_cache=False).logits[0]
    return ids, logits[len(prompt) - 1 :].log_softmax(dim=-1)


def assert_scored(got: tuple[float, ...], total: float, ids: list[int], logprobs: torch.Tensor) -> None:
    expected = logprobs.gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(torch.tensor(got), expected, atol=TOLERANCE, rtol=0)
    assert total == pytest.approx(float(expected.sum()), abs=TOLERANCE * len(ids))


def test_scores_and_baselines_are_those_of_plain_forwards(
    address: str, real_host: HostModel, saes: LoadedSaes
) -> None:
    call = ScoreCall(
        prompt=PROMPT, continuations=CONTINUATIONS, interventions=EDITS, baseline=True, watch=FEATURES
    )

    with Client(address) as client:
        scored = client.score(call).texts

    for text, continuation in zip(scored, CONTINUATIONS, strict=True):
        ids, steered = reference(real_host, saes, continuation, EDITS)
        _, plain = reference(real_host, saes, continuation, ())
        assert list(text.token_ids) == ids
        assert_scored(text.logprobs, text.total_logprob, ids, steered)
        assert_scored(text.baseline_logprobs, text.baseline_total_logprob, ids, plain)
        assert list(text.likeliest) == (steered.argmax(dim=-1) == torch.tensor(ids)).tolist()
        assert abs(text.total_logprob - text.baseline_total_logprob) > 100 * TOLERANCE


def test_a_text_is_scored_the_same_alone_and_among_others(address: str) -> None:
    together = ScoreCall(prompt=PROMPT, continuations=CONTINUATIONS, interventions=EDITS)

    with Client(address) as client:
        batched = client.score(together).texts
        alone = [
            client.score(ScoreCall(prompt=PROMPT, continuations=(text,), interventions=EDITS)).texts[0]
            for text in CONTINUATIONS
        ]

    for one, other in zip(batched, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=TOLERANCE)


def test_the_command_line_shows_what_steering_changes(
    address: str, real_host: HostModel, saes: LoadedSaes, capsys: pytest.CaptureFixture[str]
) -> None:
    edit = Intervention(target=FeatureRef("starter-21", 8), operation=Add(30.0))
    ids, steered = reference(real_host, saes, CONTINUATIONS[0], (edit,))
    _, plain = reference(real_host, saes, CONTINUATIONS[0], ())
    where = range(len(ids)), ids
    totals = [float(logprobs[where].sum()) for logprobs in (steered, plain)]

    status = main(
        ["score", PROMPT, *CONTINUATIONS[:2], "--raw", "--add", "starter-21:8=30", "--address", address]
    )

    (row,) = (line for line in capsys.readouterr().out.splitlines() if repr(CONTINUATIONS[0]) in line)
    cells = [cell.strip() for cell in row.replace("│", "|").split("|") if cell.strip()]
    assert status == 0
    assert int(cells[1]) == len(ids)
    shown = [float(cell) for cell in cells[2:]]
    assert shown == pytest.approx([*totals, totals[0] - totals[1]], abs=0.002)
