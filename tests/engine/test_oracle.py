"""Batched = alone = `generate` with a plain hook, token for token, whatever shares the batch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from steerd.config import EngineConfig
from steerd.engine.engine import Engine
from steerd.engine.request import FinishReason, GenerationRequest
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import Steering
from tests.engine.plain_ledger import assert_same_receipt
from tests.engine.random_requests import RandomRequests
from tests.engine.recorder import Recorder, StepLog, run_together, submit
from tests.engine.reference import Reference
from tests.engine.requests import mixed_requests
from tests.engine.serving import serving
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

# Rows are summed in another order when the batch has another shape, so logits agree to rounding, not to the
# bit.
LOGPROB_TOLERANCE = 2e-4
ACTIVATION_TOLERANCE = 2e-3


def serve(host: HostModel, layers: tuple[int, int], scale: float = 1.0) -> LoadedSaes:
    saes = LoadedSaes(host)
    for number, layer in enumerate(layers):
        bundle = tiny_sae(host, f"blocks.{layer}.hook_resid_post", seed=number)
        saes.add(f"sae-{number}", replace(bundle, sae=replace(bundle.sae, W_enc=bundle.sae.W_enc * scale)))
    return saes


def assert_told_again(got: Recorder, request: GenerationRequest, reference: Reference) -> None:
    """The receipt of what fired."""
    names = [trigger.name for trigger in request.steering.triggers]
    positions = {name: [at for fired, at in reference.fired if fired == name] for name in names}
    expected = [(name, len(found), found[0]) for name, found in positions.items() if found]
    receipt = got.wait().receipt
    assert [(part.name, part.times, part.first_position) for part in receipt.fired] == expected, request


def assert_same(got: Recorder, request: GenerationRequest, reference: Reference) -> None:
    assert got.token_ids == reference.token_ids, request
    assert [(event.trigger, event.position) for event in got.fired] == reference.fired, request
    assert_told_again(got, request, reference)
    assert (got.wait().reason is FinishReason.FEATURE) == reference.is_stopped
    torch.testing.assert_close(
        torch.tensor(got.logprobs), torch.tensor(reference.logprobs), atol=LOGPROB_TOLERANCE, rtol=0
    )
    if reference.receipt is not None:
        assert_same_receipt(got.wait().receipt, reference.receipt)
    capture = request.capture
    wanted = [(ref.sae, ref.index) for ref in capture.watch] if capture.after_edit else []
    for reading in got.readings:
        expected = reference.acts[reading.sae][reading.position, list(reading.features)]
        torch.testing.assert_close(
            torch.tensor(list(reading.values)), expected, atol=ACTIVATION_TOLERANCE, rtol=1e-3
        )
        watched = [feature for sae, feature in wanted if sae == reading.sae]
        assert len(reading.values_after) == len(watched)
        expected = reference.acts_after[reading.sae][reading.position, watched]
        torch.testing.assert_close(
            torch.tensor(list(reading.values_after)), expected, atol=ACTIVATION_TOLERANCE, rtol=1e-3
        )


@pytest.fixture(scope="module")
def plain_host() -> HostModel:
    return make_tiny_host("llama")


@pytest.fixture(scope="module")
def requests(plain_host: HostModel) -> list[GenerationRequest]:
    texts = ["Hello there", "a", "The sea, the sea! " * 4, "12 + 34 = ", "<|im_start|>user\nHi<|im_end|>\n"]
    prompts = [plain_host.tokenizer(text)["input_ids"] for text in texts]
    return mixed_requests(prompts, ("sae-0", "sae-1"), strength=0.5, num_new=12)


@pytest.fixture(scope="module")
def references(plain_host: HostModel, requests: list[GenerationRequest]) -> list[Reference]:
    saes = serve(plain_host, (0, 1))
    return [Reference(plain_host, saes, request) for request in requests]


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A small batch, so that prompts are cut into chunks and requests wait for memory."""
    options = getattr(request, "param", {})
    host = make_tiny_host("llama")
    config = EngineConfig(**{"kv_cache_gib": 0.002, "max_batch_tokens": 16, "page_size": 8, **options})
    engine = Engine(host, serve(host, (0, 1)), config, StepLog())
    engine.start()
    yield engine
    engine.stop()


def test_the_requests_differ_in_what_they_give(references: list[Reference]) -> None:
    assert len({tuple(reference.token_ids) for reference in references}) == len(references)


def test_alone_is_the_reference(
    engine: Engine, requests: list[GenerationRequest], references: list[Reference]
) -> None:
    for request, reference in zip(requests, references, strict=True):
        assert_same(run_together(engine, [request])[0], request, reference)


@pytest.mark.parametrize(
    "engine", [{}, {"max_batch_tokens": 512}, {"max_running_requests": 3}], indirect=True, ids=str
)
def test_batched_is_the_reference(
    engine: Engine, requests: list[GenerationRequest], references: list[Reference]
) -> None:
    recorders = run_together(engine, requests)

    for recorder, request, reference in zip(recorders, requests, references, strict=True):
        assert_same(recorder, request, reference)


def test_staggered_with_cancels_is_the_reference(
    engine: Engine, requests: list[GenerationRequest], references: list[Reference]
) -> None:
    recorders = []
    for number, request in enumerate(requests):
        doomed = submit(engine, replace(request, id=f"doomed-{number}"))
        recorders.append(submit(engine, request))
        recorders[-1].wait_for_tokens(number % 4)
        engine.cancel(doomed.submission)
        doomed.wait()
    for recorder, request, reference in zip(recorders, requests, references, strict=True):
        recorder.wait()
        assert_same(recorder, request, reference)


@pytest.mark.parametrize(
    ("architecture", "seed"), [("llama", 1), ("gemma2", 3), ("gemma3", 4), ("mistral", 5)]
)
def test_random_interventions_are_the_reference(architecture: str, seed: int) -> None:
    """Alone they are edited row by row; here they wait, share steps and are cut anywhere. Three of the hosts
    have layers that see a window, shorter than the longest prompt."""
    plain_host = make_tiny_host(architecture)
    texts = ["Hello there", "a", "The sea, the sea! " * 3, "<|im_start|>user\nHi<|im_end|>\n"]
    prompts = [plain_host.tokenizer(text)["input_ids"] for text in texts]
    points = {f"sae-{layer}": HookPoint(layer, "resid_post") for layer in (0, 1)}
    wanted = RandomRequests(seed, points, d_sae=64, d_model=plain_host.d_model, strength=0.5)
    requests = [wanted.make(f"random-{number}", prompts[number % 4], 10) for number in range(12)]
    saes = serve(plain_host, (0, 1))
    references = [Reference(plain_host, saes, request) for request in requests]
    unsteered = [replace(request, id=f"{request.id}-plain", steering=Steering()) for request in requests]

    for max_batch_tokens in random.Random(seed).sample(range(5, 24), 3):
        options = {"max_batch_tokens": max_batch_tokens, "max_running_requests": 5, "share_prefixes": True}
        with serving(host=make_tiny_host(architecture), **options) as engine:
            recorders = run_together(engine, [*requests, *unsteered])

        for recorder, request, reference in zip(recorders, requests, references, strict=False):
            assert_same(recorder, request, reference)
        pairs = zip(references, recorders[12:], strict=True)
        changed = [steered.token_ids != plain.token_ids for steered, plain in pairs]
        assert sum(changed) > len(requests) // 4


@pytest.mark.real_host
def test_real_host_batched_staggered_and_cancelled_is_the_reference(real_host: HostModel) -> None:
    texts = [
        "The capital of France is",
        "Write a story about a dog. " * 12,
        "def add(a, b):\n",
        "<|im_start|>user\nWhat is the sun?<|im_end|>\n<|im_start|>assistant\n",
    ]
    prompts = [real_host.tokenizer(text)["input_ids"] for text in texts]
    requests = mixed_requests(prompts, ("sae-0", "sae-1"), strength=8.0, num_new=16)
    saes = serve(real_host, (9, 20), scale=0.05)
    references = [Reference(real_host, saes, request) for request in requests]
    host = HostModel.load(real_host.name)
    config = EngineConfig(kv_cache_gib=0.05, max_batch_tokens=48, page_size=16)
    engine = Engine(host, serve(host, (9, 20), scale=0.05), config, StepLog())
    engine.start()

    recorders = []
    for number, request in enumerate(requests):
        doomed = submit(engine, replace(request, id=f"doomed-{number}"))
        recorders.append(submit(engine, request))
        recorders[-1].wait_for_tokens(number % 3)
        engine.cancel(doomed.submission)
        doomed.wait()
    for recorder in recorders:
        recorder.wait()
    engine.stop()

    assert len({tuple(reference.token_ids) for reference in references}) > len(requests) // 2
    for recorder, request, reference in zip(recorders, requests, references, strict=True):
        assert_same(recorder, request, reference)
