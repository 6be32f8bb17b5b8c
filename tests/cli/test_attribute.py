"""`steerd attribute` against a server with the planted host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from steerd.__main__ import main
from steerd.cli.attribute import rough_lines
from steerd.studies.attribution.result import SaeTotal
from tests.cli.attributions import attribution
from tests.planted_host import FEATURES
from tests.server.planted_server import planted_server
from tests.server.running_server import RunningServer


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with planted_server() as running:
        yield running


def test_features_are_printed_with_what_was_predicted_and_measured(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--raw", "--target", "Y", "--controls", "2", "--address", server.address]
    assert main(["attribute", "xAB?", *options]) == 0

    output = " ".join(capsys.readouterr().out.split())
    assert 'logit of "Y"' in output
    assert re.search(
        rf"late:{FEATURES['C'].index} │ planted C \[untested\] │ '\?' 3 │ \S+ │ \+9\.\d+ │ \+9\.\d+", output
    )
    assert "rank correlation of predicted with measured effects" in output
    assert "early: 3 active features" in output
    assert re.search(r"graph of \d+ nodes and \d+ edges", output)


def test_files_hold_the_page_and_the_graph(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, graph = tmp_path / "why.html", tmp_path / "why.json"
    options = [
        "--raw",
        "--target",
        "Y",
        "--against",
        "Z",
        "--html",
        str(page),
        "--graph",
        str(graph),
        "--json",
    ]
    assert main(["attribute", "xAB?", *options, "--address", server.address]) == 0

    printed, written = json.loads(capsys.readouterr().out), json.loads(graph.read_text())
    assert printed["complete"] is True
    assert printed["answer_texts"] == ["Y", "Z"]
    assert written["metadata"]["slug"] == "why"
    assert written["nodes"][-1]["clerp"].startswith('Output "Y" - "Z" (p=')
    assert len(written["links"]) == len(printed["edges"])
    assert "<svg" in page.read_text()


def test_options_reach_the_server(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--method",
        "gradient",
        "--sae",
        "late",
        "--top",
        "2",
        "--no-check",
        "--no-graph",
        "--special",
        "--json",
    ]
    assert main(["attribute", "AB?", "--target", "Y", *options, "--address", server.address]) == 0

    found = json.loads(capsys.readouterr().out)
    features = [node for node in found["nodes"] if node["kind"] == "feature"]
    assert len(features) == 2
    assert {node["sae"] for node in features} == {"late"}
    assert found["check"] is None
    assert found["edges"] == []
    assert found["token_texts"][0] == "<|im_start|>"


def test_saes_that_are_not_done_are_named() -> None:
    done = tuple(SaeTotal(name, 4, 0.5, -0.25) for name in ("early", "late", "late mlp"))

    assert list(rough_lines(attribution(totals=done))) == []
    assert list(rough_lines(attribution(totals=done[:1]))) == [
        "effects of late are predicted by plain gradients only",
        "effects of late mlp are predicted by plain gradients only",
    ]
