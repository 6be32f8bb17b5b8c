"""A head in 8 bits: close to the layer it replaces, each row for itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from steerd.errors import HostError
from steerd.host.hook_point import HookPoint
from steerd.host.int8_head import Int8Linear, quantize_head
from tests.engine.recorder import run_together
from tests.engine.requests import LONG, SHORT, greedy_request
from tests.engine.serving import serving
from tests.tiny_hosts import make_tiny_host


def layer(bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(48, 40, bias=bias).requires_grad_(False)


def rows(count: int, seed: int = 1) -> Tensor:
    """Of very different lengths, as a residual stream's are."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 10.0 ** torch.randint(-3, 4, (count, 1), generator=generator)
    return lengths * torch.randn(count, 48, generator=generator)


@pytest.mark.parametrize("bias", [True, False])
def test_results_are_close(bias: bool) -> None:
    """What 127 steps for each weight lose: half a percent of each row."""
    linear, x = layer(bias), rows(200)
    offset = linear.bias if bias else 0.0
    exact, got = linear(x) - offset, Int8Linear(linear)(x) - offset

    errors = (got - exact).norm(dim=1) / exact.norm(dim=1)
    assert 0.001 < errors.median() < 0.006
    assert errors.max() < 0.012


def test_weights_on_the_grid_lose_almost_nothing() -> None:
    """Also where one value is far larger than the rest of its row."""
    linear, x = layer(bias=False), rows(50)
    linear.weight.copy_(torch.randint(-127, 128, (40, 48)).float())
    linear.weight[:, 0] = 127.0
    x[:, 3] *= 50

    exact, got = linear(x), Int8Linear(linear)(x)

    assert ((got - exact).norm(dim=1) / exact.norm(dim=1)).max() < 4e-4


def test_every_row_is_the_same_in_any_batch() -> None:
    linear, x = Int8Linear(layer()), rows(64)
    alone = torch.cat([linear(row.unsqueeze(0)) for row in x])

    assert torch.equal(linear(x), alone)
    assert torch.equal(linear(x[7:20]), alone[7:20])
    assert torch.equal(linear(torch.cat([1e6 * x, x]))[64:], alone)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_harms_no_other(bad: float) -> None:
    linear, x = Int8Linear(layer()), rows(5)
    expected = linear(x)
    x[2, 11] = bad

    got = linear(x)

    assert got[2].isnan().all()
    assert torch.equal(got[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])


def test_rows_of_zeros_give_the_bias() -> None:
    linear = layer()

    assert torch.equal(Int8Linear(linear)(torch.zeros(2, 48)), linear.bias.expand(2, 40))


def test_large_values_side_by_side_do_not_overflow() -> None:
    """The products of 8-bit numbers are summed in pairs of 16 bits on some processors."""
    linear = nn.Linear(64, 8, bias=False).requires_grad_(False)
    linear.weight.fill_(1.0)

    got = Int8Linear(linear)(torch.ones(1, 64))

    torch.testing.assert_close(got, torch.full((1, 8), 64.0), rtol=0.01, atol=0)


def test_leading_dimensions_are_kept() -> None:
    assert Int8Linear(layer())(torch.zeros(2, 3, 48)).shape == (2, 3, 40)


def test_a_host_keeps_all_but_its_head() -> None:
    model = make_tiny_host("llama", tie_word_embeddings=True).model
    before = {name: value.clone() for name, value in model.model.state_dict().items()}

    quantize_head(model)

    assert isinstance(model.lm_head, Int8Linear)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "qwen3", "phi3", "gpt_neox", "gpt2"])
def test_hosts_say_about_the_same_of_the_same_rows(architecture: str) -> None:
    host = make_tiny_host(architecture)
    ids, point = torch.arange(40, 72).unsqueeze(0), HookPoint(2, "resid_post")
    with torch.inference_mode():
        expected, rows_before = host.model(ids, use_cache=False).logits, host.activations(ids, None, [point])
        quantize_head(host.model)
        got, rows_after = host.model(ids, use_cache=False).logits, host.activations(ids, None, [point])

    assert torch.equal(rows_after[point], rows_before[point])
    assert 0 < (got - expected).norm() < 0.02 * expected.norm()


def test_a_batch_of_requests_gives_each_what_it_gives_alone() -> None:
    """The engine's oracle is in float32; here the tokens only have to be the same in any company."""
    host = make_tiny_host()
    quantize_head(host.model)
    requests = [
        greedy_request(f"r{n}", prompt, 12) for n, prompt in enumerate([SHORT, LONG, LONG[5:], SHORT[3:]])
    ]
    with serving(host=host) as engine:
        together = [recorder.token_ids for recorder in run_together(engine, requests)]
        alone = [run_together(engine, [request])[0].token_ids for request in requests]

    assert together == alone


def test_other_dtypes_are_refused() -> None:
    model = make_tiny_host().model.to(torch.bfloat16)

    with pytest.raises(
        HostError, match="8-bit weights are for float32 on a CPU; this host is bfloat16 on cpu"
    ):
        quantize_head(model)


def test_a_model_without_a_linear_head_is_refused() -> None:
    with pytest.raises(HostError, match="LlamaModel has 0 heads that are linear layers, not one"):
        quantize_head(make_tiny_host().model.model)
