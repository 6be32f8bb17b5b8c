"""The lens against the modules after the layers, by their names, and against the host's own prediction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Ablate, Add, Set
from steerd.steering.scope import Phase
from steerd.studies.lens_table import LensCell, LensTable
from steerd.studies.logit_lens import LensWish, LogitLens
from tests.engine.requests import LONG, SHORT, edit
from tests.engine.serving import tiny_saes
from tests.host.test_architectures import MODULES
from tests.studies.steered import TOLERANCE, plain_logits, plain_rows, run, steered, steered_forward
from tests.tiny_hosts import ARCHITECTURES, make_tiny_host

STEERED = steered(
    SHORT,
    edit("sae-0", 3, Add(4.0)),
    edit("sae-1", 5, Set(2.0), Phase.GENERATED),
    edit("sae-1", 9, Ablate()),
    continuation=b" and on",
)
CHOSEN = (65, 257, 0)


def lens(host: HostModel, **wanted: object) -> LensTable:
    wish = {"text": STEERED, "plan_hash": "hash", "layers": (0, 1, 2), "positions": (2, 17), "top": 3}
    with steered_forward(host, tiny_saes(host)) as forward:
        table = run(LogitLens(forward, host, LensWish(**(wish | {"chosen": CHOSEN} | wanted))))  # type: ignore[arg-type]
    assert isinstance(table, LensTable)
    return table


def assert_cell(cell: LensCell, logits: Tensor) -> None:
    """A cell tells of logits [vocab]: their likeliest tokens, and the chosen ones."""
    logprobs = logits.double().log_softmax(dim=-1)
    values = [token.logprob for token in cell.top]
    assert values == pytest.approx(
        logprobs.sort(descending=True).values[: len(values)].tolist(), abs=TOLERANCE
    )
    assert values == pytest.approx([float(logprobs[token.token_id]) for token in cell.top], abs=TOLERANCE)
    for token_id, found in zip(CHOSEN, cell.chosen, strict=False):
        assert found.logprob == pytest.approx(float(logprobs[token_id]), abs=TOLERANCE)
        above = int((logprobs > logprobs[token_id]).sum())
        ties = int((logprobs - logprobs[token_id]).abs().le(TOLERANCE).sum())
        assert above + 1 <= found.rank + ties
        assert found.rank <= above + ties


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_layer_is_the_hosts_own_prediction(architecture: str) -> None:
    host = make_tiny_host(architecture)
    expected = plain_logits(host, tiny_saes(host), STEERED)

    table = lens(host, layers=(2,), positions=tuple(range(18)))

    assert [(cell.layer, cell.position) for cell in table.cells] == [(2, n) for n in range(18)]
    for cell in table.cells:
        assert_cell(cell, expected[cell.position])


@pytest.mark.parametrize(
    "host",
    [
        make_tiny_host("llama", tie_word_embeddings=True),
        make_tiny_host("gemma2", final_logit_softcapping=2.0),
        make_tiny_host("gpt2"),
    ],
    ids=["tied llama", "gemma2 with a low cap", "gpt2"],
)
def test_every_layer_goes_through_the_final_norm_and_the_head(host: HostModel) -> None:
    architecture = host.model.config.model_type
    norm, head = host.model.get_submodule(MODULES[architecture][3]), host.model.get_submodule("lm_head")
    cap = getattr(host.model.config, "final_logit_softcapping", None)

    table = lens(host)

    assert [(cell.layer, cell.position) for cell in table.cells] == [
        (layer, position) for layer in range(3) for position in (2, 17)
    ]
    for cell in table.cells:
        rows = plain_rows(host, tiny_saes(host), STEERED, HookPoint(cell.layer, "resid_post"))
        with torch.no_grad():
            logits = head(norm(rows[cell.position]))
        assert_cell(cell, logits if cap is None else cap * (logits / cap).tanh())
    assert not torch.allclose(
        rows, plain_rows(host, tiny_saes(host), steered(STEERED.token_ids), HookPoint(2, "resid_post"))
    )


def test_it_tells_of_what_it_looked_at(tiny_host: HostModel) -> None:
    table = lens(tiny_host, positions=(0,), top=0)

    assert table.token_ids == STEERED.token_ids
    assert "".join(table.token_texts) == "Hello there and on"
    assert (table.chosen_ids, table.chosen_texts) == (CHOSEN, ("A", "<|im_start|>", "\0"))
    assert [cell.top for cell in table.cells] == [()] * 3
    assert table.steering.plan_hash == "hash"
    assert [part.rows for part in table.steering.receipt.interventions] == [18, 7, 18]
    assert table.steering.warnings == ()


def test_interventions_that_are_made_nowhere_are_told(tiny_host: HostModel) -> None:
    text = steered(SHORT, edit("sae-1", 5, Set(2.0), Phase.GENERATED), edit("sae-0", 3, Add(1.0)))

    table = lens(tiny_host, text=text, positions=(3,))

    assert table.steering.warnings == ("set of sae-1:5 was made on no token of this text",)


def test_what_is_done_when_it_is_stopped(tiny_host: HostModel) -> None:
    wish = LensWish(
        text=steered(LONG), plan_hash="", layers=(0, 1, 2), positions=tuple(range(54)), top=1, chosen=()
    )
    with steered_forward(tiny_host, tiny_saes(tiny_host)) as forward:
        study = LogitLens(forward, tiny_host, wish)
        slices = study.run()
        before = study.result()
        next(slices), next(slices)
        middle = study.result()
        list(slices)
        after = study.result()

    assert (len(before.cells), before.complete) == (0, False)
    assert (len(middle.cells), middle.complete) == (64, False)
    assert (len(after.cells), after.complete) == (162, True)
    assert after.cells[:64] == middle.cells
