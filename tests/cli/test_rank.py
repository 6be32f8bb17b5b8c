"""`steerd rank` against a real server with a tiny host."""

from __future__ import annotations

import json

import pytest

from steerd.__main__ import main
from steerd.client_channel import RemoteError
from steerd.feature_client import FeatureClient
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.steering.intervention import FeatureRef
from steerd.studies.output_table import OutputTable, RankedOutput
from steerd.study_wire.outputs import OutputsCall, outputs_event, outputs_message
from tests.server.running_server import RunningServer, tiny_config, tiny_parts


def test_a_table_json_and_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with RunningServer(tiny_config(), *tiny_parts()) as server:
        command = ["rank", "--address", server.address]
        assert main([*command, "--sae", "late", "--top", "3"]) == 0
        table = capsys.readouterr().out
        assert main([*command, "late:5", "early:7", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        with FeatureClient(server.address) as client, pytest.raises(RemoteError) as refused:
            client.rank_outputs(OutputsCall(features=(FeatureRef("late", 5),) * 2, saes=("early",), top=0))

    assert "63 features scored" in table, "one of 64 is dead"
    assert table.count("late:") == 3
    assert record["scored"] == 2
    assert {each["feature"]["index"] for each in record["features"]} == {5, 7}
    assert len(record["features"][0]["promoted_texts"]) == 20
    assert all(field in str(refused.value) for field in ("top:", "saes:", "features[1]:"))


def test_a_table_arrives_as_it_was() -> None:
    table = OutputTable(False, 7, (RankedOutput(FeatureRef("late", 4), None, 0.5, (1, 2), ("a", "b")),))

    assert outputs_event(pb.RankOutputsResponse(result=outputs_message(table))) == table
