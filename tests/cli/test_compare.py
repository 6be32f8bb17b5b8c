"""`steerd compare` against a server with the planted host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from steerd.__main__ import main
from tests.planted_host import FEATURES
from tests.server.planted_server import planted_server
from tests.server.running_server import RunningServer

E, F = (f"early:{FEATURES[name].index}" for name in "EF")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with planted_server() as running:
        yield running


def compare(server: RunningServer, text: str, *options: str) -> int:
    answers = ["--right", "Y", "--wrong", "Z", "--additions", "0"]
    return main(["compare", "--raw", text, *answers, *options, "--address", server.address])


def test_features_and_flip_are_printed(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(server, "xABEF?", "--sae", "early", "--control", "abcd") == 0

    output = capsys.readouterr().out
    assert re.search(rf"{E} .*planted E.*'E'.*1\.00.*\+5\.\d\d.*wrong", output)
    assert re.search(rf"ablate {E} .*-\d\.\d+", output)
    assert re.search(rf"ablate {F} ", output)
    assert "side effect on 'abcd': mean divergence" in output
    assert "another next token after 0% of 4 tokens" in output


def test_json_has_every_figure(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(server, "xABEF?", "--sae", "early", "--features", "5", "--json") == 0

    found = json.loads(capsys.readouterr().out)
    assert sorted(member["intervention"] for member in found["flip"]["members"]) == sorted(
        [f"ablate {E}", f"ablate {F}"]
    )
    assert found["complete"] is True
    assert len(found["features"]) == 5
    assert len(found["flip"]["controls"]) == 3


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("xAB?", [], "the right answer is the likelier one as it is"),
        ("x*?", ["--wrong", "."], "sets of interventions makes the right answer win"),
    ],
)
def test_without_a_flip_the_reason_is_told(
    server: RunningServer, capsys: pytest.CaptureFixture[str], text: str, options: list[str], said: str
) -> None:
    assert compare(server, text, *options) == 0

    assert said in capsys.readouterr().out
