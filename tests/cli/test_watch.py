"""`steerd watch` against a server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from steerd.__main__ import main
from steerd.cli.watch import alias_of
from steerd.client import Client
from steerd.client_views import Watched
from steerd.steering.intervention import FeatureRef
from tests.server.running_server import RunningServer, tiny_config, tiny_parts


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(tiny_config(), *tiny_parts()) as running:
        yield running


def test_features_are_added_by_name_and_by_label_and_removed(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    address = ["--address", server.address]

    assert main(["watch", "set", "early:3=third", "early:4", "--hot", *address]) == 0
    assert main(["watch", "add", "Label", "13", "--threshold", "2", "--limit", "1", *address]) == 0
    with Client(server.address) as client:
        assert client.watch_list() == [
            Watched(FeatureRef("early", 3), "third", hot=True),
            Watched(FeatureRef("early", 4), "label_of_4_4", hot=True),
            Watched(FeatureRef("early", 13), "label_of_13_13", 2.0),
        ]
    assert main(["watch", "remove", "third", "label_of_4_4", *address]) == 0

    printed = capsys.readouterr().out
    assert "label of 13 [untested]" in printed
    assert re.search(r"third.*early:3.*hot", printed)
    with Client(server.address) as client:
        assert [watched.feature for watched in client.watch_list()] == [FeatureRef("early", 13)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "no-such-word"], "no served feature has a label"),
        (["remove", "nobody"], "nothing is watched as nobody"),
        (["add", "early:3=Not An Alias"], "alias"),
    ],
)
def test_a_mistake_is_one_line(
    server: RunningServer, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["watch", *arguments, "--address", server.address]) == 1

    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label", "alias"),
    [("Tea, and coffee (drinks)", "tea_and_coffee_drinks_7"), ("  ", "_7"), ("x" * 90, "x" * 38 + "_7")],
)
def test_an_alias_is_made_of_a_label(label: str, alias: str) -> None:
    assert alias_of(FeatureRef("early", 7), label) == alias
