"""The client's dataclasses to protobuf and back."""

from __future__ import annotations

from math import inf

import pytest

from steerd import client_views_wire, client_wire
from steerd.client_messages import (
    BaselineDelta,
    BaselineEnd,
    ChatTurn,
    Completed,
    Delta,
    FeatureUse,
    GenerateCall,
    Reading,
    ScoreCall,
    ScoredText,
    Scores,
    Started,
    Token,
    Unit,
)
from steerd.client_views import Allowed, ServedPolicy, ServedPreset
from steerd.intervention_wire import applied_message, intervention_of
from steerd.pb.v1 import catalog_service_pb2, feature_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.receipt_wire import receipt_message
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
    FeatureRef,
    FeatureTest,
    Intervention,
    Limit,
    Operation,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
    unit_direction,
)
from steerd.steering.receipt import (
    HookPointReceipt,
    InterventionReceipt,
    Receipt,
    SwitchReceipt,
    TriggerReceipt,
)
from steerd.steering.scope import Phase, PositionRange, Schedule, Scope
from steerd.steering.steering import NamedVersion
from steerd.steering.trigger import Flag, Stop, Switch, Trigger

FEATURE = FeatureRef("s", 7)
RECEIPT = Receipt(
    (InterventionReceipt(5, 4, 0.5, 1.5, 2.5), InterventionReceipt(0, 0, 0.0, 0.0, 0.0)),
    (HookPointReceipt("blocks.1.hook_resid_post", 4, 0.25, 0.75),),
    (TriggerReceipt("over", "switch", "", 2, 3), TriggerReceipt("far", "stop", "policy:halt@1", 1, 9)),
    SwitchReceipt("calm@1", 4),
)
WIRE_FEATURE = feature_pb2.FeatureRef(sae="s", index=7)


def test_what_is_not_given_is_not_sent() -> None:
    message = client_wire.request(GenerateCall(prompt="Hi"))

    assert message == pb.GenerateRequest(prompt="Hi", sampling=pb.SamplingParams(), capture=pb.Capture())
    assert not message.sampling.HasField("seed")


def test_the_strongest_features_are_asked_of_the_saes_that_are_named() -> None:
    capture = client_wire.request(
        GenerateCall(prompt="Hi", top_features=3, top_features_of=("a", "b"))
    ).capture

    assert capture == pb.Capture(top_k=3, top_k_saes=["a", "b"])


def test_readings_after_the_edits_can_be_asked_for() -> None:
    calls = (
        client_wire.request(GenerateCall(prompt="Hi", after_edit=True)),
        client_wire.score_request(ScoreCall(continuations=("a",), after_edit=True)),
    )

    assert [call.capture for call in calls] == [pb.Capture(after_edit=True)] * 2


def test_zero_is_sent_where_it_means_something() -> None:
    sampling = client_wire.request(GenerateCall(prompt="Hi", temperature=0.0, seed=0, top_k=0)).sampling

    assert sampling.HasField("temperature")
    assert sampling.HasField("seed")
    assert sampling.HasField("top_k")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (GenerateCall(prompt=""), "prompt"),
        (GenerateCall(chat=(ChatTurn("user", "Hi"),)), "chat"),
        (GenerateCall(token_ids=(1, 2)), "token_ids"),
    ],
)
def test_each_form_of_input(call: GenerateCall, field: str) -> None:
    assert client_wire.request(call).WhichOneof("input") == field


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Add(2.0), steering.Intervention(add=steering.Add(strength=2.0, unit=steering.UNIT_FEATURE_MAX))),
        (Set(2.0), steering.Intervention(set=steering.Set(value=2.0, unit=steering.UNIT_FEATURE_MAX))),
        (Scale(0.5), steering.Intervention(scale=steering.Scale(factor=0.5))),
        (Ablate(), steering.Intervention(ablate=steering.Ablate())),
        (
            Set(2.0, only_if_active=True),
            steering.Intervention(
                set=steering.Set(value=2.0, unit=steering.UNIT_FEATURE_MAX, only_if_active=True)
            ),
        ),
        (
            Limit(high=0.0),
            steering.Intervention(limit=steering.Limit(max=0.0, unit=steering.UNIT_FEATURE_MAX)),
        ),
        (
            Limit(-1.0, 2.0),
            steering.Intervention(limit=steering.Limit(min=-1.0, max=2.0, unit=steering.UNIT_FEATURE_MAX)),
        ),
    ],
)
def test_each_operation(operation: Operation, expected: steering.Intervention) -> None:
    scope = Scope(phase=Phase.GENERATED, include_special_tokens=True)
    intervention = Intervention(target=FEATURE, operation=operation, scope=scope)

    message = client_wire.request(
        GenerateCall(prompt="Hi", interventions=(intervention,), unit=Unit.FEATURE_MAX, watch=(FEATURE,))
    )

    expected.feature.CopyFrom(WIRE_FEATURE)
    expected.scope.CopyFrom(steering.Scope(phase=steering.PHASE_GENERATED, include_special_tokens=True))
    assert list(message.interventions) == [expected]
    assert list(message.capture.watch) == [WIRE_FEATURE]


def test_conditions_and_triggers() -> None:
    direction = unit_direction("blocks.1.hook_resid_pre", [3.0, 4.0])
    plain = FeatureTest(target=FEATURE, above=2.0, release_below=2.0)
    held = FeatureTest(target=direction, above=2.0, release_below=1.0, include_special_tokens=True)
    latched = FeatureTest(target=FEATURE, above=3.0, release_below=-inf)
    condition = Condition(((plain, held), (latched,)))
    edit = Intervention(target=FEATURE, operation=Ablate(), condition=condition)
    triggers = (
        Trigger("end", condition, Stop()),
        Trigger("turn", condition, Switch("calm")),
        Trigger("seen", Condition(((plain,),)), Flag()),
    )

    message = client_wire.request(
        GenerateCall(prompt="Hi", interventions=(edit,), triggers=triggers, unit=Unit.RESID_NORM)
    )

    unit = steering.UNIT_RESID_NORM
    wire_plain = steering.FeatureTest(feature=WIRE_FEATURE, above=2.0, unit=unit)
    along = steering.Direction(hook_point="blocks.1.hook_resid_pre", values=[0.6, 0.8])
    wire_held = steering.FeatureTest(
        direction=along, above=2.0, unit=unit, release_below=1.0, include_special_tokens=True
    )
    wire_latched = steering.FeatureTest(feature=WIRE_FEATURE, above=3.0, unit=unit, from_first=True)
    when = steering.Condition(
        any_of=[
            steering.Clause(all_of=[wire_plain, wire_held]),
            steering.Clause(all_of=[wire_latched]),
        ]
    )
    assert message.interventions[0].when == when
    only_plain = steering.Condition(any_of=[steering.Clause(all_of=[wire_plain])])
    assert list(message.triggers) == [
        steering.Trigger(name="end", when=when, stop=steering.Stop()),
        steering.Trigger(name="turn", when=when, switch=steering.Switch(preset="calm")),
        steering.Trigger(name="seen", when=only_plain, flag=steering.Flag()),
    ]
    assert intervention_of(applied_message(edit)).condition == condition
    told = applied_message(edit).when.any_of[0].all_of[1].direction
    assert (list(told.values), told.sha256) == ([], direction.sha256)


def test_each_target() -> None:
    direction = unit_direction("blocks.1.hook_resid_pre", [3.0, 4.0])
    interventions = (
        Intervention(target=direction, operation=Ablate(), preserve_norm=True),
        Intervention(target=WholeSae("s"), operation=Reconstruct()),
    )

    message = client_wire.request(GenerateCall(prompt="Hi", interventions=interventions))

    scope = steering.Scope(phase=steering.PHASE_ALL)
    along = steering.Direction(hook_point="blocks.1.hook_resid_pre", values=[0.6, 0.8])
    assert list(message.interventions) == [
        steering.Intervention(direction=along, ablate=steering.Ablate(), scope=scope, preserve_norm=True),
        steering.Intervention(sae="s", reconstruct=steering.Reconstruct(), scope=scope),
    ]


@pytest.mark.parametrize(
    "intervention",
    [
        Intervention(target=FEATURE, operation=Set(2.0, only_if_active=True), source="preset:a@1"),
        Intervention(target=FEATURE, operation=Add(-1.5), preserve_norm=True),
        Intervention(target=FEATURE, operation=Scale(0.0), schedule=Schedule(ramp=2, at_most=9)),
        Intervention(target=FEATURE, operation=Limit(low=-2.0), scope=Scope(phase=Phase.PROMPT, last_n=4)),
        Intervention(
            target=FEATURE,
            operation=Limit(-2.0, 3.0),
            scope=Scope(
                positions=(PositionRange(-3), PositionRange(1, 9)),
                token_ids=frozenset({4}),
                excluded_token_ids=frozenset({5, 6}),
                roles=("user", "system"),
            ),
        ),
        Intervention(target=unit_direction("blocks.1.hook_resid_pre", [3.0, 4.0]), operation=Ablate()),
        Intervention(target=WholeSae("s"), operation=Reconstruct()),
    ],
)
def test_an_answers_interventions_are_read_back(intervention: Intervention) -> None:
    assert intervention_of(applied_message(intervention)) == intervention


def test_presets_are_named_and_listed() -> None:
    assert client_wire.request(GenerateCall(prompt="Hi", presets=("a", "b@2"))).presets == ["a", "b@2"]
    assert client_wire.score_request(ScoreCall(continuations=("a",), presets=("a",))).presets == ["a"]
    edit = Intervention(target=FEATURE, operation=Ablate(), source="preset:a@1")
    listed = catalog_service_pb2.Preset(
        name="a",
        version="1",
        description="calm",
        interventions=[applied_message(edit)],
        triggers=[steering.Trigger(name="seen", stop=steering.Stop())],
    )
    expected = ServedPreset(NamedVersion("a", "1"), "calm", (edit,), ("stop seen",))
    assert client_views_wire.served_preset(listed) == expected


def test_policies_are_listed() -> None:
    edit = Intervention(target=FEATURE, operation=Ablate(), source="policy:a@1")
    message = catalog_service_pb2.Policy(
        name="a",
        version="1",
        description="safe",
        interventions=[applied_message(edit)],
        allow=catalog_service_pb2.Allow(features=["s:1-2"], directions=True, presets=["*"]),
        max_dose=0.0,
        over_dose=steering.OVER_DOSE_CLAMP,
        triggers=[steering.Trigger(name="far", stop=steering.Stop())],
    )
    bare = catalog_service_pb2.Policy(name="b", version="2")

    allowed = Allowed(features=("s:1-2",), directions=True, reconstruct=False, presets=("*",))
    policy = ServedPolicy(NamedVersion("a", "1"), "safe", (edit,), allowed, 0.0, "clamp", ("stop far",))
    assert client_views_wire.served_policy(message) == policy
    unbounded = ServedPolicy(NamedVersion("b", "2"), "", (), None, None, "")
    assert client_views_wire.served_policy(bare) == unbounded


def test_scopes_and_schedules() -> None:
    scope = Scope(
        phase=Phase.PROMPT,
        first_n=5,
        last_n=4,
        positions=(PositionRange(-3), PositionRange(0, 2)),
        token_ids=frozenset({7, 3}),
        excluded_token_ids=frozenset({9}),
        roles=("user",),
    )
    schedule = Schedule(start_after=1, ramp=2, half_life=3.0, at_most=4)
    intervention = Intervention(target=FEATURE, operation=Ablate(), scope=scope, schedule=schedule)

    (message,) = client_wire.request(GenerateCall(prompt="Hi", interventions=(intervention,))).interventions

    assert message.scope == steering.Scope(
        phase=steering.PHASE_PROMPT,
        first_n=5,
        last_n=4,
        positions=[steering.PositionRange(start=-3), steering.PositionRange(start=0, end=2)],
        token_ids=[3, 7],
        excluded_token_ids=[9],
        roles=["user"],
    )
    assert message.schedule == steering.Schedule(start_after=1, ramp=2, half_life=3.0, at_most=4)


def test_events_are_read() -> None:
    started = pb.Started(
        request_id="r",
        model="m",
        prompt_tokens=3,
        queue_seconds=0.5,
        sampling=pb.SamplingParams(seed=9),
        warnings=["careful"],
        plan_hash="ab12",
    )
    delta = pb.Delta(
        text="ab",
        token_ids=[4, 5],
        positions=[3, 4],
        logprobs=[-1.0, -0.5],
        token_texts=["a", "b"],
        readings=[pb.TokenReading(position=2, sae="s", features=[7], values=[1.5], values_after=[2.5])],
    )
    completed = pb.Completed(
        finish_reason=pb.FINISH_REASON_STOP_SEQUENCE,
        usage=pb.Usage(prompt_tokens=3, generated_tokens=2, cached_prompt_tokens=1),
        timings=pb.Timings(queue_seconds=0.5, prefill_seconds=0.25, decode_seconds=2.0),
        features=[
            pb.FeatureSummary(feature=WIRE_FEATURE, max_activation=1.5, mean_activation=0.5, active_tokens=1)
        ],
        receipt=receipt_message(RECEIPT, "ab12"),
    )

    assert client_wire.event(pb.GenerateResponse(started=started)) == Started(
        "r", "m", 3, 0.5, 9, (), ("careful",), "ab12"
    )
    assert client_wire.event(pb.GenerateResponse(delta=delta)) == Delta(
        "ab", (Token(4, 3, -1.0, "a"), Token(5, 4, -0.5, "b")), (Reading(2, "s", (7,), (1.5,), (2.5,)),)
    )
    assert client_wire.event(pb.GenerateResponse(completed=completed)) == Completed(
        "stop_sequence",
        3,
        2,
        0.5,
        0.25,
        2.0,
        (FeatureUse(FEATURE, 1.5, 0.5, 1, 0),),
        RECEIPT,
        cached_prompt_tokens=1,
    )


def test_a_baseline_comes_back_as_it_was_sent() -> None:
    delta = pb.BaselineDelta(
        text="ab",
        token_ids=[1, 2],
        positions=[4, 5],
        logprobs=[-1.0, -2.0],
        token_texts=["a", "b"],
        kl_positions=[4],
        kl=[0.5],
    )
    event = client_wire.event(pb.GenerateResponse(delta=pb.Delta(baseline=delta)))

    assert client_wire.request(GenerateCall(prompt="Hi", baseline=True)).baseline
    assert event == Delta(
        "", (), (), BaselineDelta("ab", (Token(1, 4, -1.0, "a"), Token(2, 5, -2.0, "b")), ((4, 0.5),))
    )


@pytest.mark.parametrize("position", [None, 0, 9])
def test_the_end_of_a_baseline_says_whether_the_texts_part(position: int | None) -> None:
    summary = pb.BaselineSummary(
        finish_reason=pb.FINISH_REASON_STOP,
        usage=pb.Usage(prompt_tokens=3, generated_tokens=6),
        first_diverging_position=position,
        mean_kl=0.25,
    )
    completed = client_wire.event(pb.GenerateResponse(completed=pb.Completed(baseline=summary)))

    assert isinstance(completed, Completed)
    assert completed.baseline == BaselineEnd("stop", 3, 6, position, 0.25)


def test_a_score_call_is_a_request_and_its_answer_comes_back() -> None:
    message = client_wire.score_request(
        ScoreCall(continuations=("a", (1, 2)), prompt="Hi", baseline=True, watch=(FEATURE,), request_id="r")
    )

    assert message == pb.ScoreRequest(
        request_id="r",
        prompt="Hi",
        continuations=[pb.Continuation(text="a"), pb.Continuation(token_ids=pb.TokenIds(ids=[1, 2]))],
        baseline=True,
        capture=pb.Capture(watch=[WIRE_FEATURE]),
    )
    score = pb.ContinuationScore(
        token_ids=[1],
        token_texts=["a"],
        logprobs=[-0.5],
        likeliest=[True],
        total_logprob=-0.5,
        baseline_logprobs=[-1.0],
        baseline_total_logprob=-1.0,
        readings=[pb.TokenReading(position=2, sae="s", features=[7], values=[1.5])],
        receipt=receipt_message(RECEIPT, "ab12"),
    )
    assert client_wire.scores(
        pb.ScoreResponse(scores=[score], warnings=["careful"], plan_hash="ab12")
    ) == Scores(
        (
            ScoredText(
                (1,), ("a",), (-0.5,), (True,), -0.5, (-1.0,), -1.0, (Reading(2, "s", (7,), (1.5,)),), RECEIPT
            ),
        ),
        ("careful",),
        "ab12",
    )
