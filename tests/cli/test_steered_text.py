"""`steerd lens`, `trace` and `effects` against a real server with a tiny host."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from steerd.__main__ import main
from steerd.cli.steered_text import stretch
from steerd.feature_client import FeatureClient
from steerd.steering.intervention import Add, FeatureRef, Intervention
from steerd.steering.scope import PositionRange
from steerd.study_wire.effects import EffectsCall
from steerd.study_wire.logit_lens import LensCall
from steerd.study_wire.steered_text import SteeredStudyText
from steerd.study_wire.study_text import StudyText
from steerd.study_wire.trace import TraceCall
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config, tiny_parts

FEATURE = FeatureRef("late", 3)
STEERED = SteeredStudyText(
    text=StudyText(prompt="Hello"),
    continuation=" you",
    interventions=(Intervention(target=FEATURE, operation=Add(4.0)),),
)
WORDS = ["Hello", "--raw", "--continuation", " you", "--add", "late:3=4"]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(tiny_config(), *tiny_parts()) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[FeatureClient]:
    with FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as connected:
        yield connected


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"[-+]?\d+\.\d+", text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5", PositionRange(5, 6)),
        ("-1", PositionRange(-1)),
        ("-3", PositionRange(-3, -2)),
        ("2:8", PositionRange(2, 8)),
        ("-5:", PositionRange(-5)),
        (":-1", PositionRange(0, -1)),
        (":", PositionRange(0)),
    ],
)
def test_a_stretch_of_tokens(text: str, found: PositionRange) -> None:
    assert stretch(text) == found


@pytest.mark.parametrize("text", ["", "a", "1:2:3", "--1", "1.5"])
def test_what_is_no_stretch(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a position"):
        stretch(text)


def test_the_lens_is_printed_position_by_position(
    server: RunningServer, client: FeatureClient, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "lens",
        *WORDS,
        "--at",
        "3",
        "--at=-1",
        "--top",
        "2",
        "--token",
        "z",
        "--address",
        server.address,
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert main([*words, "--json", "--layer", "1"]) == 0
    record = json.loads(capsys.readouterr().out)

    lens = client.lens(LensCall(steered=STEERED, positions=(PositionRange(3),), top=2, tokens=("z",)))
    assert "After 'l', token 3" in printed
    assert "After 'u', token 8" in printed
    (cell,) = [cell for cell in lens.cells if (cell.layer, cell.position) == (2, 8)]
    assert repr(cell.top[0].text) in printed
    assert f"(#{cell.chosen[0].rank})" in printed
    assert "add late:3=4" in printed, "the receipt"
    assert [(cell["layer"], cell["position"]) for cell in record["cells"]] == [(1, 3), (1, 8)]
    assert record["steering"]["interventions"] == [{"what": "add late:3=4", "tokens": 9, "changed": 9}]
    assert record["complete"] is True


def test_a_trace_is_printed_sae_by_sae(
    server: RunningServer, client: FeatureClient, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["trace", *WORDS, "--top", "3", "--sae", "late", "--address", server.address]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)

    (row,) = client.trace(TraceCall(steered=STEERED, saes=("late",), top=3)).rows
    assert "At 'u', token 8" in printed
    assert "blocks.2.hook_resid_post" in printed
    for feature in row.features:
        assert f"late:{feature.feature}" in printed
        assert f"label of {feature.feature} [untested]" in printed
        assert any(abs(number - feature.activation) < 0.01 for number in numbers(printed))
    assert [each["feature"] for each in record["rows"][0]["features"]] == [
        each.feature for each in row.features
    ]
    assert record["token_texts"] == list("Hello you")


def test_effects_are_printed_twice_and_written_as_a_page(
    server: RunningServer, client: FeatureClient, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "effects.html"
    words = ["effects", *WORDS, "--feature", "late:9", "--feature", "early:2", "--address", server.address]
    assert main([*words, "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)

    features = (FeatureRef("late", 9), FeatureRef("early", 2))
    table = client.effects(EffectsCall(steered=STEERED, features=features))
    assert printed.count("Hello you") == 4
    for effect, told in zip(table.effects, record["effects"], strict=True):
        assert any(abs(number - effect.total_change) < 0.01 for number in numbers(printed))
        assert told["total_change"] == pytest.approx(effect.total_change, abs=1e-5)
        assert told["feature"] == {"sae": effect.feature.sae, "index": effect.feature.index}
    assert "late:9" in page.read_text(encoding="utf-8")


def test_what_the_server_refuses_is_one_line(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lens", "Hello", "--token", "two", "--address", server.address]) == 1

    assert "must be one token of the host; 'two' is 3: 't', 'w', 'o'" in capsys.readouterr().err
