"""The record of each request: what it says, what it keeps to itself, and where it goes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import grpc
import pytest

from steerd.config import MonitoringConfig, WatchedFeature
from steerd.config_file import parse_config
from steerd.errors import ConfigError
from steerd.monitoring.request_log import RequestLog
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from tests.server.running_server import RunningServer, tiny_config, tiny_parts

WATCH = (
    WatchedFeature(sae="late", index=3, alias="third", threshold=0.5),
    WatchedFeature(sae="late", index=4, alias="never", threshold=1e6),
)


CALM_AND_FAR = """
    [[presets]]
    name = "calm"
    version = "1"
    [[presets.interventions]]
    feature = { sae = "early", index = 1 }
    add = { strength = 2.0 }
    [[policies]]
    name = "halt"
    version = "1"
    [[policies.triggers]]
    name = "far"
    flag = {}
    when = { any_of = [{ all_of = [{ feature = { sae = "late", index = 3 }, above = 0.0 }] }] }
"""


def serving(path: Path, **monitoring: Any) -> RunningServer:
    section = MonitoringConfig(port=0, sample_every=1, watch=WATCH, request_log=str(path), **monitoring)
    return RunningServer(tiny_config(monitoring=section), *tiny_parts())


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_request_leaves_one_line(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    scale = steering.Intervention(feature=FeatureRef(sae="early", index=1), scale=steering.Scale(factor=2))
    asked = pb.GenerateRequest(
        request_id="one",
        prompt="tell-tale prompt",
        sampling=pb.SamplingParams(max_new_tokens=6),
        interventions=[scale],
        capture=pb.Capture(watch=[FeatureRef(sae="late", index=3)], top_k=64, include_prompt=True),
    )

    with serving(path) as server:
        generated = server.generate(asked)
        changed = server.total("steerd_steering_delta_ratio_count")
        with pytest.raises(grpc.RpcError):
            server.generate(pb.GenerateRequest(prompt=""))  # never admitted

    assert "tell-tale" not in path.read_text()
    (record,) = records(path)
    assert record["request_id"] == "one"
    assert (record["rpc"], record["outcome"], record["generated_tokens"]) == ("Generate", "length", 6)
    assert record["queue_seconds"] >= 0
    assert record["prefill_seconds"] > 0
    (edit,) = record["steering"]
    assert (edit["target"], edit["operation"]) == ("early:1", "scale")
    assert edit["rows"] == generated.completed.receipt.interventions[0].rows > 0
    assert changed == len(generated.completed.receipt.hook_points) == 1
    third = [
        reading.values[0] for reading in generated.readings if reading.sae == "late" and reading.position
    ]
    (over,) = record["over_threshold"]
    assert over["alias"] == "third"
    assert over["tokens"] == sum(value > 0.5 for value in third)
    assert over["max"] == pytest.approx(max(third), abs=1e-3)
    strongest = max(value for r in generated.readings if r.position for value in r.values)
    assert len(record["top_features"]) == 10
    assert record["top_features"][0]["max"] == pytest.approx(strongest, abs=1e-3)


def test_what_fired_and_what_was_switched_to_is_told(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    section = MonitoringConfig(port=0, request_log=str(path))
    steered = parse_config(tomllib.loads(CALM_AND_FAR), folder=tmp_path)
    config = tiny_config(monitoring=section, presets=steered.presets, policies=steered.policies)
    over = steering.FeatureTest(feature=FeatureRef(sae="early", index=1), above=-1.0)
    always = steering.Condition(any_of=[steering.Clause(all_of=[over])])
    asked = pb.GenerateRequest(
        prompt="the cat",
        sampling=pb.SamplingParams(max_new_tokens=3),
        triggers=[steering.Trigger(name="mine", when=always, switch=steering.Switch(preset="calm"))],
    )

    with RunningServer(config, *tiny_parts()) as server:
        generated = server.generate(asked)
        counted = server.total("steerd_triggers_fired_total", action="switch", source="client")
        server.generate(pb.GenerateRequest(prompt="the", sampling=pb.SamplingParams(max_new_tokens=1)))

    assert counted == 1
    fired = [firing for message in generated.messages for firing in message.delta.fired]
    switched, plain = records(path)
    triggers = {use["name"]: use for use in switched["triggers"]}
    mine = [firing.position for firing in fired if firing.trigger == "mine"]
    assert triggers["mine"] == {
        "name": "mine",
        "action": "switch",
        "source": "",
        "times": len(mine),
        "first_position": mine[0],
    }
    assert triggers["far"]["source"] == "policy:halt@1"
    assert triggers["far"]["action"] == "flag"
    assert switched["switched"] == {"preset": "calm@1", "first_position": 7}
    assert switched["steering"][0]["source"] == "switch:calm@1"
    assert plain["switched"] is None


def test_prompts_are_there_when_asked_for_and_stay_on_their_line(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    prompt = "first\n{second}\x1b[31m"

    with serving(path, log_prompts=True) as server:
        server.generate(pb.GenerateRequest(prompt=prompt, sampling=pb.SamplingParams(max_new_tokens=1)))

    (record,) = records(path)
    assert prompt in record["prompt"]
    assert "\x1b" not in path.read_text()


def test_a_disk_that_fails_is_counted_and_nobody_notices() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")

    with serving(full) as server:
        generated = server.generate(
            pb.GenerateRequest(prompt="the cat", sampling=pb.SamplingParams(max_new_tokens=2))
        )
        failures = server.total("steerd_monitor_failures_total", part="request_log")

    assert generated.completed.usage.generated_tokens == 2
    assert failures == 1


def test_a_file_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    config = MonitoringConfig(request_log=str(tmp_path / "nowhere" / "log"))

    with pytest.raises(ConfigError, match=re.escape("monitoring.request_log: cannot write")):
        RequestLog(config, model="m", decode=None)


@pytest.mark.parametrize(("said", "meant"), [("off", "off"), ("stderr", "stderr"), ("log", "/folder/log")])
def test_a_relative_path_is_taken_from_the_file(said: str, meant: str) -> None:
    config = parse_config({"monitoring": {"request_log": said}}, folder=Path("/folder"))

    assert config.monitoring.request_log == meant
