"""Conditions and triggers over the wire: what is answered, and what the stream tells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from steerd.config import ServerConfig
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from tests.server.running_server import Generated, RunningServer, tiny_config, tiny_parts

PROMPT = "Hello there"
LATE = FeatureRef(sae="late", index=3)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(tiny_config(), *tiny_parts()) as running:
        yield running


def always(**fields: object) -> steering.Condition:
    """On every row but the very first."""
    test = steering.FeatureTest(feature=LATE, above=-1, **fields)  # type: ignore[arg-type]
    return steering.Condition(any_of=[steering.Clause(all_of=[test])])


def generate(server: RunningServer, *interventions: steering.Intervention, **fields: object) -> Generated:
    sampling = pb.SamplingParams(max_new_tokens=8)
    return server.generate(
        pb.GenerateRequest(prompt=PROMPT, sampling=sampling, interventions=interventions, **fields)  # type: ignore[arg-type]
    )


def firings(generated: Generated) -> list[tuple[str, int]]:
    return [(firing.trigger, firing.position) for delta in generated.deltas for firing in delta.fired]


def test_started_repeats_conditions_and_triggers_with_nothing_left_open(server: RunningServer) -> None:
    along = steering.Direction(hook_point="blocks.1.hook_resid_pre", values=[3.0] + [0.0] * 31)
    condition = steering.Condition(
        any_of=[
            steering.Clause(
                all_of=[
                    steering.FeatureTest(
                        feature=FeatureRef(sae="late", index=7),
                        above=2,
                        release_below=1,
                        unit=steering.UNIT_FEATURE_MAX,
                    )
                ]
            ),
            steering.Clause(
                all_of=[
                    steering.FeatureTest(
                        direction=along, above=9, from_first=True, include_special_tokens=True
                    ),
                    steering.FeatureTest(direction=along, above=3),
                ]
            ),
        ]
    )
    edit = steering.Intervention(feature=LATE, add=steering.Add(strength=1), when=condition)
    trigger = steering.Trigger(name="seen", when=condition, flag=steering.Flag())

    started = generate(server, edit, triggers=[trigger]).started

    expected = steering.Condition()
    expected.CopyFrom(condition)
    first, *directions = (test for clause in expected.any_of for test in clause.all_of)
    first.above, first.release_below, first.unit = 4.0, 2.0, steering.UNIT_ACTIVATION  # of a maximum of 2
    for test in directions:
        test.unit = steering.UNIT_ACTIVATION
        test.direction.ClearField("values")
        test.direction.sha256 = started.triggers[0].when.any_of[1].all_of[0].direction.sha256
        assert len(test.direction.sha256) == 64
    assert started.interventions[0].when == expected
    assert list(started.triggers) == [steering.Trigger(name="seen", when=expected, flag=steering.Flag())]


def test_a_condition_decides_whether_there_is_steering(server: RunningServer) -> None:
    add = steering.Add(strength=9)
    plain = generate(server)
    everywhere = generate(server, steering.Intervention(feature=LATE, add=add))
    nowhere = steering.Condition(
        any_of=[steering.Clause(all_of=[steering.FeatureTest(feature=LATE, above=1e5)])]
    )
    shut = generate(server, steering.Intervention(feature=LATE, add=add, when=nowhere))
    on = generate(
        server, steering.Intervention(feature=LATE, add=add, when=always(include_special_tokens=True))
    )

    assert everywhere.token_ids != plain.token_ids
    assert shut.token_ids == plain.token_ids
    assert on.token_ids == everywhere.token_ids
    uses = [generated.completed.features[0].steered_tokens for generated in (everywhere, on, shut)]
    assert uses == [len(PROMPT) + 7, len(PROMPT) + 7, 0]


def test_a_flag_is_told_and_changes_nothing(server: RunningServer) -> None:
    plain = generate(server)
    flagged = generate(server, triggers=[steering.Trigger(name="on", when=always(), flag=steering.Flag())])

    assert flagged.text == plain.text
    assert firings(flagged) == [("on", 1)]
    assert flagged.completed.finish_reason == plain.completed.finish_reason


def test_many_firings_in_a_prompt_do_not_fill_the_clients_buffer() -> None:
    host, saes = tiny_parts()
    letters = host.model.get_input_embeddings().weight[[ord("a"), ord("b")]]
    apart = letters[0] - letters[1]
    direction = steering.Direction(hook_point="blocks.0.hook_resid_pre", values=apart.tolist())
    test = steering.FeatureTest(direction=direction, above=float((letters @ apart).mean() / apart.norm()))
    when = steering.Condition(any_of=[steering.Clause(all_of=[test])])
    flags = [steering.Trigger(name=name, when=when, flag=steering.Flag()) for name in ("one", "two")]
    asked = pb.GenerateRequest(prompt="ba" * 20, sampling=pb.SamplingParams(max_new_tokens=1), triggers=flags)
    config = tiny_config(server=ServerConfig(port=0, stream_buffer_events=4))
    with RunningServer(config, host, saes) as narrow:
        told = firings(narrow.generate(asked))

    assert told == [(name, position) for position in range(1, 40, 2) for name in ("one", "two")]


def record_breaker(generated: Generated) -> tuple[FeatureRef, int, float]:
    """A feature, a generated position where it is above all it was before, and a bound between the two."""
    readings = [reading for delta in generated.deltas for reading in delta.readings if reading.position > 0]
    for position in range(len(PROMPT), len(PROMPT) + 6):
        (here,) = [reading for reading in readings if reading.position == position]
        for place, (index, value) in enumerate(zip(here.features, here.values, strict=True)):
            before = max(reading.values[place] for reading in readings if reading.position < position)
            if value > before + 0.01:
                return FeatureRef(sae="late", index=index), position, (value + before) / 2
    raise AssertionError("no feature breaks its record")


def test_a_stop_ends_the_text_on_its_token(server: RunningServer) -> None:
    features = [FeatureRef(sae="late", index=index) for index in range(40)]
    plain = generate(server, capture=pb.Capture(watch=features, include_prompt=True))
    feature, position, above = record_breaker(plain)
    test = steering.FeatureTest(feature=feature, above=above)
    condition = steering.Condition(any_of=[steering.Clause(all_of=[test])])
    stop = steering.Trigger(name="end", when=condition, stop=steering.Stop())

    before = server.total("steerd_finish_reason_total", reason="feature")
    stopped = generate(server, capture=pb.Capture(watch=[feature]), triggers=[stop])

    assert stopped.completed.finish_reason == pb.FINISH_REASON_FEATURE
    assert stopped.token_ids == plain.token_ids[: position - len(PROMPT) + 1]
    assert plain.text.startswith(stopped.text.rstrip("\N{REPLACEMENT CHARACTER}"))
    assert firings(stopped) == [("end", position)]
    last = [reading for delta in stopped.deltas for reading in delta.readings][-1]
    assert last.position == position
    assert last.values[0] > above
    assert server.total("steerd_finish_reason_total", reason="feature") == before + 1


def test_a_stop_in_the_prompt_makes_no_token(server: RunningServer) -> None:
    stop = steering.Trigger(name="end", when=always(), stop=steering.Stop())

    stopped = generate(server, triggers=[stop], baseline=True)

    assert (stopped.text, stopped.token_ids) == ("", [])
    assert firings(stopped) == [("end", 1)]
    assert stopped.completed.usage == pb.Usage(prompt_tokens=len(PROMPT), generated_tokens=0)
    assert stopped.completed.baseline.usage.generated_tokens == 8
