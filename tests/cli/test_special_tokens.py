"""`steerd special-tokens` against a real server with a tiny host."""

from __future__ import annotations

import json

import pytest

from steerd.__main__ import main
from steerd.client_channel import RemoteError
from steerd.feature_client import FeatureClient
from steerd.study_wire.special_tokens import SpecialTokensCall
from tests.server.running_server import RunningServer, tiny_config, tiny_parts


def test_a_table_a_token_and_the_sweep_of_the_strongest(capsys: pytest.CaptureFixture[str]) -> None:
    with RunningServer(tiny_config(), *tiny_parts()) as server:
        command = ["special-tokens", "--address", server.address, "--sae", "late", "--top", "2"]
        assert main(command) == 0
        tables = capsys.readouterr().out
        assert main([*command, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        with FeatureClient(server.address) as client, pytest.raises(RemoteError) as refused:
            client.special_tokens(SpecialTokensCall(top=0, saes=("late", "late")))

    assert "'<|im_end|>' (id 258), in 8 texts" in tables
    tokens = record["table"]["tokens"]
    assert [token["token_id"] for token in tokens] == [257, 258]
    assert all(len(token["features"]) == 2 for token in tokens)
    assert record["sweep"] == []
    assert all(field in str(refused.value) for field in ("top:", "saes[1]:"))


def test_the_sweep_steers_on_the_token_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with RunningServer(tiny_config(), *tiny_parts()) as server:
        command = ["special-tokens", "--address", server.address, "--sae", "late", "--top", "1"]
        assert main([*command, "--sweep", "1", "--strengths", "1", "--max-new-tokens", "4"]) == 0

    told = capsys.readouterr().out
    assert told.count("steered on its token alone") == 2
    assert told.count("safe up to") + told.count("not even the smallest") == 2
