"""Switches over the wire: a preset takes the place of what a request asked for, and of nothing else."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from steerd.config import Config, SaeConfig, SteeringConfig
from steerd.config_file import parse_config
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef as WireFeature
from steerd.steering.intervention import Add, Condition, FeatureRef, FeatureTest, Intervention, Set
from steerd.steering.scope import Schedule
from steerd.steering.steering import Steering
from steerd.steering.trigger import Switch, Trigger
from tests.engine.reference import Reference
from tests.engine.requests import SHORT, edit, greedy_request
from tests.server.running_server import Generated, RunningServer, tiny_config, tiny_parts
from tests.server.test_dose import known_saes
from tests.server.test_edge_table import error_info, refused, violations
from tests.server.test_triggers import record_breaker
from tests.tiny_hosts import make_tiny_host

PROMPT = bytes(SHORT).decode()
NUM_NEW = 8
PRESETS = """
    [[presets]]
    name = "loud"
    version = "1"
    [[presets.interventions]]
    feature = { sae = "late", index = 4 }
    ablate = {}

    [[presets]]
    name = "loud"
    version = "2"
    [[presets.interventions]]
    feature = { sae = "early", index = 5 }
    add = { strength = 6 }
    schedule = { ramp = 2 }
    [[presets.interventions]]
    feature = { sae = "late", index = 9 }
    add = { strength = 3 }
"""
POLICY = """
    [[policies]]
    name = "never"
    version = "3"
    [[policies.interventions]]
    feature = { sae = "late", index = 7 }
    set = { value = 4 }
"""
OWN = edit("early", 3, Add(5.0))
BROUGHT = (
    replace(edit("early", 5, Add(6.0)), schedule=Schedule(ramp=2)),
    edit("late", 9, Add(3.0)),
)
DEMANDED = replace(edit("late", 7, Set(4.0)), source="policy:never@3")


def config_of(toml: str) -> Config:
    return parse_config(tomllib.loads(toml), folder=Path())


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    read = config_of(PRESETS + POLICY)
    with RunningServer(tiny_config(presets=read.presets, policies=read.policies), *tiny_parts()) as running:
        yield running


def own(intervention: Intervention = OWN) -> steering.Intervention:
    target, operation = intervention.target, intervention.operation
    assert isinstance(target, FeatureRef)
    assert isinstance(operation, Add)
    feature = WireFeature(sae=target.sae, index=target.index)
    return steering.Intervention(feature=feature, add=steering.Add(strength=operation.strength))


def turning(preset: str, feature: WireFeature, above: float) -> steering.Trigger:
    test = steering.FeatureTest(feature=feature, above=above)
    condition = steering.Condition(any_of=[steering.Clause(all_of=[test])])
    return steering.Trigger(name="turn", when=condition, switch=steering.Switch(preset=preset))


AT_ONCE = WireFeature(sae="late", index=3), -1.0  # on every row but the first


def request(*edits: steering.Intervention, **fields: object) -> pb.GenerateRequest:
    sampling = pb.SamplingParams(max_new_tokens=NUM_NEW)
    return pb.GenerateRequest(**{"prompt": PROMPT, "sampling": sampling, "interventions": edits} | fields)  # type: ignore[arg-type]


def logprobs(generated: Generated) -> list[float]:
    return [each for delta in generated.deltas for each in delta.logprobs]


@pytest.mark.parametrize("where", ["prompt", "text"])
def test_a_preset_takes_the_place_of_the_request_s_own_and_policies_stay(
    server: RunningServer, where: str
) -> None:
    features = [WireFeature(sae="late", index=index) for index in range(40)]
    kept = server.generate(request(own(), capture=pb.Capture(watch=features, include_prompt=True)))
    feature, position, above = (*AT_ONCE[:1], 1, AT_ONCE[1])
    if where == "text":
        feature, position, above = record_breaker(kept)

    turned = server.generate(request(own(), triggers=[turning("loud", feature, above)]))

    test = FeatureTest(target=FeatureRef(feature.sae, feature.index), above=above, release_below=above)
    trigger = Trigger("turn", Condition(((test,),)), Switch("loud", BROUGHT))
    steered = Steering(interventions=(OWN, DEMANDED), triggers=(trigger,))
    reference = Reference(*tiny_parts(), replace(greedy_request("r", SHORT, NUM_NEW), steering=steered))
    assert turned.token_ids == reference.token_ids
    assert logprobs(turned) == pytest.approx(reference.logprobs, abs=2e-4)
    assert [(f.trigger, f.position) for delta in turned.deltas for f in delta.fired] == [("turn", position)]
    first_changed = max(position + 1, len(SHORT)) - len(SHORT) + 1
    assert turned.token_ids[:first_changed] == kept.token_ids[:first_changed]
    assert logprobs(turned)[first_changed] != pytest.approx(logprobs(kept)[first_changed], abs=1e-3)
    rows = [receipt.rows for receipt in turned.completed.receipt.interventions]
    rows_before = len(SHORT) + first_changed - 1
    num_rows = len(SHORT) + len(turned.token_ids) - 1
    assert rows == [rows_before, num_rows, num_rows - rows_before, num_rows - rows_before]


def test_started_tells_what_a_switch_would_bring(server: RunningServer) -> None:
    plain = server.generate(request(own())).started
    turned = server.generate(request(own(), triggers=[turning("loud", *AT_ONCE)])).started
    spelled = server.generate(request(own(), triggers=[turning("loud@2", *AT_ONCE)])).started
    other = server.generate(request(own(), triggers=[turning("loud@1", *AT_ONCE)])).started

    assert [each.switch.preset for each in turned.triggers] == ["loud@2"]
    sources = [each.source for each in turned.interventions]
    assert sources == ["", "policy:never@3", "switch:loud@2", "switch:loud@2"]
    assert turned.interventions[2].schedule.ramp == 2
    assert [each.name for each in turned.policies] == ["never"]
    assert list(turned.presets) == []
    assert turned.plan_hash == spelled.plan_hash
    assert len({plain.plan_hash, turned.plan_hash, other.plan_hash}) == 3


def test_of_two_switches_the_first_is_made_and_both_are_told(server: RunningServer) -> None:
    first, second = turning("loud@1", *AT_ONCE), turning("loud@1", *AT_ONCE)
    second.name = "again"

    turned = server.generate(request(own(), triggers=[first, second]))

    assert [each.source for each in turned.started.interventions][2:] == ["switch:loud@1"] * 2
    rows = [receipt.rows for receipt in turned.completed.receipt.interventions]
    assert rows == [len(SHORT), len(SHORT) + NUM_NEW - 1, NUM_NEW - 1, 0]


def test_the_baseline_switches_to_nothing(server: RunningServer) -> None:
    plain = server.generate(request())

    both = server.generate(request(triggers=[turning("loud", *AT_ONCE)], baseline=True))

    assert both.token_ids != plain.token_ids
    assert [token for delta in both.deltas for token in delta.baseline.token_ids] == plain.token_ids


def test_the_allowance_of_a_policy_holds_for_switches() -> None:
    policy = "[[policies]]\nname = 'only'\nversion = '1'\nallow = { presets = ['loud@1'] }\n"
    read = config_of(PRESETS + policy)
    with RunningServer(tiny_config(presets=read.presets, policies=read.policies), *tiny_parts()) as server:
        error = refused(server, request(triggers=[turning("loud", *AT_ONCE)]))
        allowed = server.generate(request(triggers=[turning("loud@1", *AT_ONCE)]))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(error).reason == "POLICY_DENIED"
    assert error_info(error).metadata == {"field": "triggers[0].switch.preset", "policy": "only@1"}
    assert allowed.token_ids


DOSED = PRESETS.replace('"early"', '"known"').replace('"late"', '"unknown"')


def dosed(over_dose: str, *, by_policy: bool) -> RunningServer:
    """At most half the median norm of 10 at one hook point, where `loud@2` adds 6."""
    cap = f"name = 'cap'\nversion = '1'\nmax_dose = 0.5\nover_dose = 'OVER_DOSE_{over_dose.upper()}'\n"
    read = config_of(DOSED + (f"[[policies]]\n{cap}" if by_policy else ""))
    limit = SteeringConfig() if by_policy else SteeringConfig(max_dose=0.5, over_dose=over_dose)
    host = make_tiny_host()
    saes = tuple(SaeConfig(name=name, path="in memory") for name in ("known", "unknown"))
    config = tiny_config(saes=saes, presets=read.presets, policies=read.policies, steering=limit)
    return RunningServer(config, host, known_saes(host))


TURNING = turning("loud", WireFeature(sae="known", index=3), -1.0)
BESIDE = own(edit("known", 3, Add(4.0)))


@pytest.mark.parametrize("by_policy", [False, True], ids=["server", "policy"])
@pytest.mark.parametrize("over_dose", ["warn", "clamp"])
def test_the_dose_of_a_switch_counts_by_itself(over_dose: str, *, by_policy: bool) -> None:
    with dosed(over_dose, by_policy=by_policy) as server:
        started = server.generate(request(BESIDE, triggers=[TURNING])).started

    (warning,) = started.warnings
    assert warning.startswith("switch to loud@2: ")
    assert "0.6 times" in warning
    assert started.interventions[0].add.strength == 4
    assert started.interventions[1].add.strength == pytest.approx(6 if over_dose == "warn" else 5)


def test_too_strong_a_switch_is_refused_by_its_field() -> None:
    field = "triggers[0].switch.preset"
    with dosed("reject", by_policy=False) as server:
        told = violations(refused(server, request(triggers=[TURNING])))
    with dosed("reject", by_policy=True) as server:
        denied = refused(server, request(triggers=[TURNING]))

    assert list(told) == [field]
    assert "0.6 times" in told[field]
    assert error_info(denied).metadata == {"field": field, "policy": "cap@1"}


def test_a_switch_for_roles_edits_what_the_assistant_says() -> None:
    for role, rows in (("assistant", NUM_NEW - 1), ("user", 0)):
        read = config_of(PRESETS + f"scope = {{ roles = ['{role}'] }}\n")
        chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="Hello")])
        with RunningServer(tiny_config(presets=read.presets), *tiny_parts()) as server:
            turned = server.generate(request(prompt=None, chat=chat, triggers=[turning("loud", *AT_ONCE)]))

        assert turned.completed.receipt.interventions[1].rows == rows
